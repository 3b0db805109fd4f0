"""TLS in front of servers that speak none: what production's links look like, on loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import trustme

HOST = "127.0.0.1"


def written(authority: trustme.CA, directory: Path) -> tuple[Path, Path]:
    """A certificate for this machine and its key, as the files that a server is given."""
    issued = authority.issue_cert(HOST, "localhost")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return certificate, key


@contextlib.contextmanager
def encrypted(port: int, authority: trustme.CA, *, protocols: Sequence[str] = ()) -> Iterator[int]:
    """A port that asks for TLS and passes what it hears on to `port`; `protocols` is what it offers by ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, "localhost").configure_cert(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    with socket.create_server((HOST, 0)) as server:
        threading.Thread(target=_accept, args=(server, context, port), daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            plain, _ = server.accept()
            with contextlib.suppress(OSError):
                client = context.wrap_socket(plain, server_side=True)
                behind = socket.create_connection((HOST, port), 5)
                for source, target in ((client, behind), (behind, client)):
                    threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Until either end closes: then both do, so that the thread of the other direction ends too."""
    with contextlib.suppress(OSError):
        while heard := source.recv(65536):
            target.sendall(heard)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
