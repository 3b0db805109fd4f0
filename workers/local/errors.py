"""What can go wrong with the local servers, in a sentence."""


class EmbeddedServerError(Exception):
    """A local server cannot be had; the message says what was wrong, with which value, and what to do."""
