"""An SMTP server that keeps each message as a file, for people and tests to look at.

    python -m workers.inbox --port 1025 --directory var/inbox

`NAME.eml` holds the message exactly as it was sent, `NAME.json` beside it the envelope, which is no part of a message
(mail_from, rcpt_tos, received_at). Names sort by time of arrival. A message has been accepted (250) only when both
files are complete on disk; a `.eml` never appears without its `.json`.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
from datetime import UTC, datetime
from pathlib import Path

import click
from aiosmtpd.smtp import SMTP, Envelope, Session

_LOOPBACK = "127.0.0.1"
_SIZE_LIMIT = 64 * 2**20


class Inbox:
    """aiosmtpd's handler: it calls `handle_DATA` when a message is complete, and answers what that returns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.original_content or b""
        received_at = datetime.now(UTC)
        name = f"{received_at:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"
        described: dict[str, object] = {
            # aiosmtpd hands on the empty sender, that of a bounce, in its brackets.
            "mail_from": "" if envelope.mail_from == "<>" else envelope.mail_from,
            "rcpt_tos": envelope.rcpt_tos,
            "received_at": received_at.isoformat(),
        }
        try:
            # In a thread: while one message waits for the disk, other connections are served.
            await asyncio.to_thread(self._keep, name, content, described)
        except OSError as error:
            return f"452 4.3.1 {self.directory} cannot be written: {error.strerror}"
        return f"250 2.0.0 kept as {name}.eml"

    def _keep(self, name: str, content: bytes, envelope: dict[str, object]) -> None:
        described = json.dumps(envelope, ensure_ascii=False, indent=2) + "\n"
        _write(self.directory / f"{name}.json", described.encode("utf-8", "surrogateescape"))
        _write(self.directory / f"{name}.eml", content)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


async def serve(port: int, directory: Path) -> None:
    """Serve until SIGTERM or SIGINT. OSError if the port cannot be had."""
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink()  # of a message that was never accepted
    loop = asyncio.get_running_loop()
    handler = Inbox(directory)
    # A fixed host name: the default asks the DNS for one, which takes seconds where there is none.
    server = await loop.create_server(
        lambda: SMTP(
            handler,
            hostname="inbox.localhost",
            ident="Tenure inbox",
            enable_SMTPUTF8=True,
            data_size_limit=_SIZE_LIMIT,
            loop=loop,
        ),
        host=_LOOPBACK,
        port=port,
        backlog=256,
    )
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await stopping.wait()
    server.close()


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="Port on 127.0.0.1 to listen on.")
@click.option(
    "--directory", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where to keep the messages."
)
def main(port: int, directory: Path) -> None:
    """Keep each message that is sent to 127.0.0.1:PORT as a file."""
    try:
        asyncio.run(serve(port, directory))
    except OSError as error:
        raise SystemExit(f"The inbox cannot serve port {port} from {directory}: {error}.") from None


if __name__ == "__main__":
    main()
