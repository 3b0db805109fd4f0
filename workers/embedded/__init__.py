"""The local stack: real PostgreSQL, Valkey, S3 and an SMTP inbox from PyPI wheels, with no Docker, root or account.

    with servers(directory) as environment: ...     # for tests
    start(directory, keep_running=True); stop(directory)

All listen on loopback only, with passwords of their own, and keep their data under `directory`. Production installs
none of it: the wheels are the extra `tenure[local]`, and nothing here imports them before it has to.
"""

from workers.embedded.errors import EmbeddedServerError
from workers.embedded.stack import ALL, Stack, environment, running, servers, start, stop

__all__ = ["ALL", "EmbeddedServerError", "Stack", "environment", "running", "servers", "start", "stop"]
