"""`tenure download-page`: the page from which a customer downloads the record of their data (T18).

    GET  /exports/SECRET                what it is, how large, until when; a button
    POST /exports/SECRET                the button: to an address that is good for minutes
    GET  /exports/-/SIGNED/record.zip   the record, decrypted on its way; in parts where that is asked for

It speaks HTTP behind the company's own web tier, which forwards `/exports/` to it, or HTTPS where it has a certificate
(`workers/services/tls.py`), and is off unless it is started.
A letter's link alone downloads nothing, since mail scanners follow links: that takes the button. No cookie, no
script, nothing from anywhere else; no address is logged, because it is a secret.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from typing import Final

import anyio
import click
import structlog
import uvicorn
from babel import negotiate_locale
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from email_templates.language.translations import SOURCE, languages
from email_templates.pages.download_page import Offered, Refusal, page, refusal, style_hash
from models.base.unit_of_work import is_outage, outage_reason
from tasks.crypto.age import Sealed, SealError
from tasks.failures import Permanent, Transient, Unavailable
from tasks.ports.context import Ports
from tasks.termination import downloads
from tasks.termination.delivering import files_in, records_in
from tasks.termination.downloads import Found
from tasks.termination.exporting import opened
from tasks.termination.links import PAGE
from workers.services import tls
from workers.settings.settings import Settings

log = structlog.get_logger()

#: Seconds that downloads are given to end when the process is asked to stop.
GRACE: Final = 30
#: Seconds after which a download that takes nothing more is ended: a machine that was closed says no goodbye, and each
#: download holds a connection to the object store. The browser goes on from there when it is back.
STALLED: Final = 120.0
#: A year, in seconds (RFC 6797). Said where this process speaks TLS itself; elsewhere the web tier says it.
_HSTS: Final = "max-age=31536000"
_RANGE: Final = re.compile(r"bytes=(?=\d|-\d)(\d{0,18})-(\d{0,18})", re.ASCII)
_LANGUAGE: Final = re.compile(r"([A-Za-z]{2,3})\b[^,;]*", re.ASCII)
_STATUS: Final = {Refusal.UNKNOWN: 404, Refusal.OVER: 410, Refusal.STALE: 410, Refusal.AWAY: 503}


def application(ports: Ports, *, encrypted: bool = False) -> Starlette:
    """The page. `encrypted`: whoever serves it does so over TLS."""
    pages = _Pages(ports, headers(encrypted=encrypted))
    return Starlette(
        routes=[
            Route(f"{PAGE}/-/{{signed}}/record.zip", pages.download, methods=["GET"]),
            Route(f"{PAGE}/{{secret}}", pages.show, methods=["GET"]),
            Route(f"{PAGE}/{{secret}}", pages.begin, methods=["POST"]),
        ],
        exception_handlers={404: pages.nothing, 405: pages.nothing, Exception: pages.broken},
    )


class _Pages:
    def __init__(self, ports: Ports, always: Mapping[str, str]) -> None:
        self._ports = ports
        self._always = always

    async def show(self, request: Request) -> Response:
        return await run_in_threadpool(self._answered, request, self._show)

    async def begin(self, request: Request) -> Response:
        return await run_in_threadpool(self._answered, request, self._begin)

    async def download(self, request: Request) -> Response:
        return await run_in_threadpool(self._answered, request, self._download)

    async def nothing(self, request: Request, _error: Exception) -> Response:
        return self._refused(request, Refusal.UNKNOWN)

    async def broken(self, request: Request, error: Exception) -> Response:
        log.error("download_page.failed", kind=type(error).__name__)
        return self._refused(request, Refusal.AWAY)

    def _answered(self, request: Request, answer: Callable[[Request], Response]) -> Response:
        try:
            return answer(request)
        except Permanent as error:
            # The key is gone, or the object: nobody who comes later gets it either.
            log.warning("download_page.lost", reason=str(error))
            return self._refused(request, Refusal.OVER)
        except (Transient, Unavailable) as error:
            log.warning("download_page.away", reason=str(error))
        except DBAPIError as error:
            if not is_outage(error):
                raise
            log.warning("postgresql.unavailable", reason=outage_reason(error))
        return self._refused(request, Refusal.AWAY)

    def _show(self, request: Request) -> Response:
        with self._ports.database.transaction() as session:
            found = downloads.find(session, request.path_params["secret"])
        if found is None or found.is_over:
            return self._refused(request, Refusal.UNKNOWN if found is None else Refusal.OVER, found)
        shown = page(
            _offered(found),
            language=found.link.language,
            time_zone=found.link.time_zone,
            company=self._ports.letterhead.company,
        )
        return HTMLResponse(shown, headers=self._always)

    def _begin(self, request: Request) -> Response:
        with self._ports.database.transaction() as session:
            found = downloads.find(session, request.path_params["secret"])
            if found is None or found.is_over:
                return self._refused(request, Refusal.UNKNOWN if found is None else Refusal.OVER, found)
            signed = downloads.sign(session, self._ports, found)
        return RedirectResponse(f"{PAGE}/-/{signed}/record.zip", 303, headers=self._always)

    def _download(self, request: Request) -> Response:
        with self._ports.database.transaction() as session:
            found, stale = downloads.check(session, self._ports, request.path_params["signed"])
        if found is None or found.is_over or stale:
            why = Refusal.UNKNOWN if found is None else Refusal.STALE if stale else Refusal.OVER
            return self._refused(request, why, found)
        sealed = opened(self._ports, found.termination)
        etag = f'"{(found.termination.archive_sha256 or b"").hex()}"'
        size = sealed.content_size
        sent = {
            **self._always,
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Content-Type": "application/zip",
            "Content-Disposition": f'attachment; filename="record-{found.termination.id}.zip"',
        }
        wanted = request.headers.get("range")
        if wanted is None or request.headers.get("if-range", etag) != etag:
            wanted = ""
        part = _part(wanted, size)
        if part is None:
            return Response(status_code=416, headers={**sent, "Content-Range": f"bytes */{size}"})
        start, stop = part
        sent["Content-Length"] = str(stop - start)
        status = 200
        if _RANGE.fullmatch(wanted):
            status, sent["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{size}"
        return _Download(self._ports, found, sealed, part, status=status, headers=sent)

    def _refused(self, request: Request, why: Refusal, found: Found | None = None) -> Response:
        language = found.link.language if found else _accepted(request.headers.get("accept-language", ""))
        shown = refusal(why, language=language, company=self._ports.letterhead.company)
        return HTMLResponse(shown, _STATUS[why], headers=self._always)


class _Download(Response):
    """Part of the record, as it is decrypted; and how much of it has left, noted at its end or where it broke off."""

    def __init__(
        self,
        ports: Ports,
        found: Found,
        sealed: Sealed,
        part: tuple[int, int],
        *,
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        # Response counts a body that is not here.
        self.raw_headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._ports, self._found, self._sealed = ports, found, sealed
        self._start, self._stop = part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        left = self._start
        gone = anyio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        pieces = self._sealed.content(self._start, self._stop)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            try:
                while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
                    # Waits while the other side does not take what it was sent.
                    with anyio.fail_after(STALLED):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if gone.is_set():
                        break
                    left += len(piece)
                if left == self._stop and not gone.is_set():
                    await send({"type": "http.response.body"})
            except (SealError, Permanent, Transient, Unavailable) as error:
                # A short answer, which the other side sees as one, is better than a wrong one.
                log.error("download_page.broke_off", reason=str(error))
            except TimeoutError:
                log.info("download_page.stalled", seconds=STALLED)
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    # The connection to the object store is closed now, not when somebody collects what is left.
                    await anyio.to_thread.run_sync(pieces.close)
                    await anyio.to_thread.run_sync(self._note, left)

    def _note(self, left: int) -> None:
        if left == self._start:
            return
        try:
            with self._ports.database.transaction() as session:
                whole = downloads.received(session, self._found, self._start, left)
        except DBAPIError as error:
            # The customer has the bytes. They do not count: reminders go on, and nothing is purged for them.
            if not is_outage(error):
                raise
            log.warning("postgresql.unavailable", reason=outage_reason(error))
            return
        if whole:
            log.info("export.downloaded", termination=str(self._found.termination.id))


def _offered(found: Found) -> Offered:
    termination = found.termination
    about = termination.correspondence or {}
    assert termination.available_until is not None  # noqa: S101 - it is not over
    return Offered(
        account_name=about.get("account_name", ""),
        account_ref=about.get("account_ref", ""),
        available_until=termination.available_until,
        downloaded_at=found.link.downloaded_at,
        records=records_in(termination),
        files=files_in(termination),
        size=termination.content_size or 0,
        sha256=(termination.manifest_sha256 or b"").hex(),
    )


def _part(wanted: str, size: int) -> tuple[int, int] | None:
    """From where up to where; all of it where several parts are asked for, or in another unit. None: there is none."""
    match = _RANGE.fullmatch(wanted)
    if match is None:
        return 0, size
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
    return (start, stop) if start < stop else None


def _accepted(header: str) -> str:
    """The first of the browser's languages that we write."""
    asked = [match[1].lower() for match in _LANGUAGE.finditer(header[:200])]
    return negotiate_locale(asked, list(languages())) or SOURCE


def headers(*, encrypted: bool = False) -> dict[str, str]:
    """What every answer carries."""
    return {
        **({"Strict-Transport-Security": _HSTS} if encrypted else {}),
        "Cache-Control": "no-store",
        "Content-Security-Policy": f"default-src 'none'; style-src {style_hash()}; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex, nofollow",
    }


def serve(chosen: Settings, ports: Ports) -> int:
    """Answer until SIGTERM or Ctrl-C. Returns the exit code. Raises SettingsError where its certificate is none."""
    context = tls.context(chosen)
    server = uvicorn.Server(
        uvicorn.Config(
            application(ports, encrypted=context is not None),
            host=chosen.download_address,
            port=chosen.download_port,
            ssl_context_factory=None if context is None else lambda _config, _default: context,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=GRACE,
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises once more what it was stopped by: to be asked to stop is no failure.
        signal.signal(number, lambda _number, _frame: None)
    try:
        server.run()
    except SystemExit:
        # uvicorn's own word for an address that it did not get.
        click.echo(
            f"tenure: {chosen.download_address}:{chosen.download_port} cannot be listened on: set "
            "TENURE_DOWNLOAD_ADDRESS and TENURE_DOWNLOAD_PORT to what is free.",
            err=True,
        )
        return 1
    return 0
