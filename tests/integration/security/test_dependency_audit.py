"""The audit of dependencies: by schedule, against a real HTTP service, kept with its age (P5.1b, W24)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from threading import Thread

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.failures import Unavailable
from tasks.ports.audit import Vulnerability
from tasks.ports.context import Ports
from tasks.security.dependency_audit import audit
from tests.integration.conftest import Run
from workers.adapters.osv import OSV, installed
from workers.observe.promises.evidence import Evidence, Installation, Verdict
from workers.observe.promises.report import vulnerabilities_are_patched
from workers.settings.settings import Settings

NOTICE = "PYSEC-2026-1"
ADVISORY = {
    "id": NOTICE,
    "aliases": ["CVE-2026-1"],
    "affected": [
        {
            "package": {"name": "Celery", "ecosystem": "PyPI"},
            "ranges": [
                {"type": "GIT", "events": [{"introduced": "0"}, {"fixed": "c0ffee"}]},
                {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]},
            ],
        },
        {"package": {"name": "other", "ecosystem": "PyPI"}, "ranges": [{"events": [{"fixed": "1"}]}]},
    ],
}


@dataclass
class Service:
    """What a small OSV service knows, and what it was asked."""

    advisories: dict[str, dict[str, object]] = field(default_factory=dict)
    against: dict[str, list[str]] = field(default_factory=dict)
    asked: list[Mapping[str, object]] = field(default_factory=list)
    broken: bytes | None = None
    address: str = ""

    def answer(self, path: str, body: bytes) -> bytes:
        if self.broken is not None:
            return self.broken
        if path.startswith("/v1/vulns/"):
            return json.dumps(self.advisories[path.rpartition("/")[2]]).encode()
        assert path == "/v1/querybatch"
        queries = json.loads(body)["queries"]
        self.asked += queries
        return json.dumps({"results": [self._page(query) for query in queries]}).encode()

    def _page(self, query: Mapping[str, dict[str, str]]) -> dict[str, object]:
        """One advisory a page."""
        known, page = self.against.get(query["package"]["name"], []), int(str(query.get("page_token", "0")))
        answer: dict[str, object] = {"vulns": [{"id": each} for each in known[page : page + 1]]} if known else {}
        return answer | ({"next_page_token": str(page + 1)} if page + 1 < len(known) else {})


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            content = made.answer(self.path, self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        made.address = f"http://127.0.0.1:{server.server_port}"
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def auditing(ports: Ports, service: Service) -> Ports:
    return replace(ports, auditor=OSV(service.address))


def known(service: Service, *ids: str) -> None:
    for each in ids:
        service.advisories[each] = ADVISORY | {"id": each}
    service.against["celery"] = list(ids)


def judged(settings: Settings, database: Database) -> Evidence:
    with database.connection() as connection:
        return vulnerabilities_are_patched(Installation(settings, connection))


def set_back(database: Database, table: str, column: str, days: int) -> None:
    with database.connection() as connection:
        connection.execute(text(f"UPDATE tenure.{table} SET {column} = {column} - make_interval(days => {days})"))


def test_every_installed_package_is_looked_up_and_nothing_else_leaves(service: Service) -> None:
    known(service, NOTICE, "PYSEC-2026-2")
    service.advisories["PYSEC-2026-2"]["withdrawn"] = "2020-02-01T00:00:00Z"
    packages, found = OSV(service.address)()
    assert found == [Vulnerability("celery", version("celery"), NOTICE, ("CVE-2026-1",), ("99.1",))]
    assert packages == len(installed()) > 50
    first = service.asked[:packages]
    assert {key for query in first for key in query} == {"package", "version"}
    assert sorted((q["package"]["name"], q["version"]) for q in first) == installed()  # type: ignore[index]
    assert "tenure" not in {name for name, _ in installed()}


def test_a_finding_is_kept_until_it_is_gone(
    auditing: Ports, service: Service, database: Database, settings: Settings
) -> None:
    assert judged(settings, database).verdict is Verdict.UNKNOWN
    known(service, NOTICE)
    assert audit(auditing)["vulnerable"] == 1
    assert audit(auditing) == {"packages": 0}, "once a day"
    assert judged(settings, database).verdict is Verdict.KEPT
    set_back(database, "security_findings", "first_seen", 31)
    overdue = judged(settings, database)
    assert overdue.verdict is Verdict.BROKEN
    assert "1 findings open, the oldest for 31 d of 30" in overdue.figure
    set_back(database, "security_audits", "begun_at", 1)
    known(service)
    assert audit(auditing)["gone"] == 1
    assert judged(settings, database).verdict is Verdict.KEPT


def test_no_answer_is_no_clean_bill(auditing: Ports, service: Service, database: Database, settings: Settings) -> None:
    known(service, NOTICE)
    audit(auditing)
    set_back(database, "security_audits", "begun_at", 4)
    for broken in (b"", b"<html>", b'{"results": []}'):
        service.broken = broken
        with pytest.raises(Unavailable):
            OSV(service.address)()
        assert audit(auditing) == {"unavailable": 1}
    silent = judged(settings, database)
    assert (silent.verdict, silent.figure) == (Verdict.BROKEN, "The last audit is 4 d old")
    with database.connection() as connection:
        still = connection.execute(text("SELECT count(*) FROM tenure.security_findings WHERE gone_at IS NULL"))
        assert still.scalar_one() == 1


def test_one_audit_at_a_time_and_a_dead_one_does_not_stand_in_the_way(auditing: Ports, database: Database) -> None:
    def dies() -> tuple[int, list[Vulnerability]]:
        assert audit(auditing, every=timedelta(0)) == {"packages": 0}, "while another is under way"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(replace(auditing, auditor=dies))
    assert audit(auditing) == {"packages": 0}
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.security_audits SET begun_at = begun_at - interval '11 minutes'"))
    assert audit(auditing)["packages"] > 50


def test_the_operator_sees_and_accepts_what_is_open(tenure: Run, service: Service) -> None:
    known(service, NOTICE)
    tomorrow = f"{datetime.now(UTC).date() + timedelta(days=1)}"
    seen = tenure("security", "audit", TENURE_OSV_URL=service.address, COLUMNS="160")
    assert seen.returncode == 1, seen.stderr
    assert all(word in seen.stdout for word in ("celery", NOTICE, "99.1", "29 d"))
    (row,) = json.loads(tenure("security", "findings", "--json").stdout)
    assert (row["advisory"], row["fixed_in"], row["age_days"]) == (NOTICE, ["99.1"], 0)

    refused = tenure("security", "accept", "celery", "CVE-0", "--until", tomorrow, "--why", "Not reachable.")
    assert refused.returncode == 2
    assert "no open finding 'CVE-0'" in refused.stderr
    long_ago = tenure("security", "accept", "celery", NOTICE, "--until", "2020-01-01", "--why", "Not reachable.")
    assert long_ago.returncode == 2
    assert (
        tenure("security", "accept", "celery", "CVE-2026-1", "--until", tomorrow, "--why", "Not used.").returncode == 0
    )
    assert tenure("security", "findings").returncode == 0
    gone = tenure("security", "audit", TENURE_OSV_URL="http://127.0.0.1:1")
    assert gone.returncode == 1
    assert "gave no answer" in gone.stderr
    assert tenure("security", "audit").returncode == 2, "off on one's own machine"
