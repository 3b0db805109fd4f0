"""The outside world behind the ports of `tasks/ports/context.py`."""
