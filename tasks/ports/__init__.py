"""What tasks need of the outside world, as small protocols; workers/wiring builds the real ones."""
