"""Known vulnerabilities of the installed packages, from an OSV service (Open Source Vulnerabilities, W24).

By its documented interface and not by pip-audit, which brings pip along: the image holds nothing that can install
(W23). What leaves is names and versions of public packages, nothing of ours or of a customer.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from typing import Any
from urllib.parse import quote

import msgspec

from tasks.failures import Unavailable
from tasks.ports.audit import Vulnerability

ADDRESS = "https://api.osv.dev"
ECOSYSTEM = "PyPI"
#: Seconds for one answer.
TIMEOUT = 30
#: Packages asked for at once; the service takes 1,000.
BATCH = 500
#: Pages of one answer that are followed.
PAGES = 20


class _Advisory(msgspec.Struct):
    id: str
    aliases: list[str] = []
    affected: list[dict[str, Any]] = []
    #: Set where the advisory was a mistake.
    withdrawn: str | None = None


class _Listed(msgspec.Struct):
    id: str


class _Answer(msgspec.Struct):
    vulns: list[_Listed] = []
    next_page_token: str | None = None


class _Answers(msgspec.Struct):
    results: list[_Answer]


class OSV:
    """Looks up every installed distribution but Tenure itself, at the service at `address`."""

    def __init__(self, address: str | None = None) -> None:
        self._address = (address or ADDRESS).rstrip("/")

    def __call__(self) -> tuple[int, Sequence[Vulnerability]]:
        packages = installed()
        return len(packages), list(self._find(packages))

    def _find(self, packages: Sequence[tuple[str, str]]) -> Iterator[Vulnerability]:
        advisories: dict[str, _Advisory] = {}
        for (name, version), listed in self._listed(packages):
            for each in listed:
                if each not in advisories:
                    advisories[each] = self._ask(f"/v1/vulns/{quote(each)}", None, _Advisory)
                advisory = advisories[each]
                if advisory.withdrawn is None:
                    fixed = tuple(sorted(_fixed_in(advisory, name)))
                    yield Vulnerability(name, version, advisory.id, tuple(advisory.aliases), fixed)

    def _listed(self, packages: Sequence[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], list[str]]]:
        """The ids of what is known against each package, page by page."""
        asked = [(package, "") for package in packages]
        for _ in range(PAGES):
            following = []
            for start in range(0, len(asked), BATCH):
                part = asked[start : start + BATCH]
                queries = [_query(name, version, page) for (name, version), page in part]
                answers = self._ask("/v1/querybatch", {"queries": queries}, _Answers).results
                if len(answers) != len(part):
                    raise Unavailable("The vulnerability database answered fewer questions than it was asked.")
                for (package, _page), answer in zip(part, answers, strict=True):
                    yield package, [each.id for each in answer.vulns]
                    if answer.next_page_token:
                        following.append((package, answer.next_page_token))
            if not following:
                return
            asked = following

    def _ask(self, path: str, body: Any, kind: type[Any]) -> Any:
        content = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(  # noqa: S310 - the address is a setting of https or of this machine
            self._address + path, data=content, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
                return msgspec.json.decode(answer.read(), type=kind)
        except (OSError, msgspec.DecodeError) as error:
            raise Unavailable(f"The vulnerability database (TENURE_OSV_URL) gave no answer: {error}") from error


def installed() -> list[tuple[str, str]]:
    """Name and version of every distribution that came from outside."""
    found = {(str(each.metadata["Name"] or "").lower(), each.version) for each in distributions()}
    return sorted(package for package in found if package[0] not in {"", "tenure"})


def _query(name: str, version: str, page: str) -> dict[str, Any]:
    query: dict[str, Any] = {"package": {"name": name, "ecosystem": ECOSYSTEM}, "version": version}
    return query | ({"page_token": page} if page else {})


def _fixed_in(advisory: _Advisory, name: str) -> set[str]:
    """The versions in which this package no longer has it. Commits, which OSV lists too, are not versions."""
    return {
        event["fixed"]
        for affected in advisory.affected
        if str(affected.get("package", {}).get("name", "")).lower() == name
        for changes in affected.get("ranges", [])
        if changes.get("type") != "GIT"
        for event in changes.get("events", [])
        if "fixed" in event
    }
