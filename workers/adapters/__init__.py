"""The outside world behind the ports of `tasks/ports.py`."""
