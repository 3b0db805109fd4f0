"""Where Tenure's processes may connect to, by the settings and the data map, and where they do (P3.1f)."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import psutil
from sqlalchemy.engine import make_url

from models.data_map import file as data_map_file
from workers.adapters import osv
from workers.settings import session_stores
from workers.settings.settings import Mode, Settings

#: A host and a port.
Address = tuple[str, int]
_PORTS: Final[Mapping[str, int]] = {
    "postgresql": 5432, "redis": 6379, "rediss": 6379, "http": 80, "https": 443, "smtp": 25, "smtps": 465,
    "smtp+starttls": 587,
}  # fmt: skip
#: By which HTTP clients are told of a proxy.
_PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
#: By which a process is known as one of Tenure's.
_MODULES: Final = frozenset({"workers.app", "workers.commands"})
_COMMAND: Final = "tenure"
_DATABASE: Final = "TENURE_DATABASE_URL"


def configured(settings: Settings, environment: Mapping[str, str]) -> dict[Address, str]:
    """Every address that a process of Tenure is told to talk to, with the setting that names it."""
    found: dict[Address, str] = {}
    for name, url in _named(settings, environment):
        for address in _addresses(url):
            found.setdefault(address, name)
    return found


def _named(settings: Settings, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield _DATABASE, settings.database_url
    yield "TENURE_BROKER_URL", settings.broker_url
    yield "TENURE_S3_ENDPOINT", settings.s3_endpoint
    for mail in settings.mail_url.split():
        yield "TENURE_MAIL_URL", mail
    if settings.stripe_secret_key:
        yield "TENURE_STRIPE_API", settings.stripe_api
    if settings.osv_url or settings.mode is Mode.PRODUCTION:
        yield "TENURE_OSV_URL", settings.osv_url or osv.ADDRESS
    for store in session_stores.parse(settings.session_stores, production=settings.mode is Mode.PRODUCTION):
        if store.url is not None:
            yield "TENURE_SESSION_STORES", store.url
    for proxy in _PROXIES:
        if environment.get(proxy):
            yield proxy, environment[proxy]
    if settings.datamap is not None:
        read = data_map_file.load(Path(settings.datamap))
        stores, processors = read.map.redis, read.map.processors
        asked = [*(each.address_from for each in stores), *(each.address_from for each in processors)]
        for variable in (*read.databases.values(), *asked):
            if variable is not None and environment.get(variable):
                yield variable, environment[variable].strip()


def _addresses(url: str) -> Iterator[Address]:
    if url.startswith("postgres"):
        parsed = make_url(url)
        if parsed.host is not None:
            yield parsed.host, parsed.port or _PORTS["postgresql"]
        return
    parts = urlsplit(url)
    if parts.scheme == "ses":
        endpoint = parse_qs(parts.query).get("endpoint")
        if endpoint:
            yield from _addresses(endpoint[0])
        else:
            yield f"email.{parts.hostname}.amazonaws.com", _PORTS["https"]
    elif parts.hostname is not None and (port := parts.port or _PORTS.get(parts.scheme)) is not None:
        yield parts.hostname, port


def resolved(addresses: Iterable[Address]) -> set[Address]:
    """The same as numbers, as the names are answered now; a name that is not answered has none."""
    found: set[Address] = set()
    for host, port in addresses:
        with suppress(OSError):
            found |= {(str(each[4][0]), port) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    return found


def processes(database_url: str) -> list[psutil.Process]:
    """Tenure's processes of this machine that work on this database, as far as this user may look at them."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            arguments = process.cmdline()
            ours = _MODULES.intersection(arguments) or _COMMAND in {Path(each).name for each in arguments[:2]}
            if ours and process.pid != os.getpid() and _database(process.environ()) == database_url:
                found.append(process)
    return found


def _database(environment: Mapping[str, str]) -> str | None:
    if file := environment.get(f"{_DATABASE}_FILE"):
        return Path(file).read_text(encoding="utf-8").strip()
    return environment.get(_DATABASE)


def connections(running: Iterable[psutil.Process]) -> set[Address]:
    """To whom these processes have an open TCP connection that they have made: what a port of theirs took is not."""
    found: set[Address] = set()
    for process in running:
        with suppress(psutil.Error):
            sockets = process.net_connections(kind="tcp")
            served = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
            found |= {
                (_plain(each.raddr.ip), each.raddr.port)
                for each in sockets
                if each.raddr and each.laddr.port not in served
            }
    return found


def _plain(ip: str) -> str:
    """Without the clothes that an IPv4 address wears in an IPv6 socket."""
    mapped = getattr(ipaddress.ip_address(ip.partition("%")[0]), "ipv4_mapped", None)
    return str(mapped) if mapped else ip
