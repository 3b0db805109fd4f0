"""Logs: structlog for everything, JSON in production, one readable line elsewhere (W14). Ids and counts, no values."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class WithoutTraceback(logging.Filter):
    """A broker that is away is a clear line: Celery adds the traceback of how it noticed, and of its tidying up."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "celery.bootsteps" or record.levelno <= logging.WARNING:
            record.exc_info = None
        return True


def configure(*, json: bool, level: int = logging.INFO) -> None:
    """Send structlog and the standard library's logging to stderr, one event a line."""
    last: Any = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    )
    structlog.configure(
        processors=[*SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Celery's own two lines a task, which ours replace.
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
    # The HTTP and AWS clients log addresses and keys of objects at INFO and below.
    for chatty in ("botocore", "boto3", "urllib3", "s3transfer", "kombu", "amqp"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
    for verbose in ("celery.worker.consumer.consumer", "celery.bootsteps"):
        logging.getLogger(verbose).addFilter(WithoutTraceback())
