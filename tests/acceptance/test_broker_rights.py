"""The least rights at the broker that docs/production.md gives, over TLS: all that is done is done by them (P5.1a)."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import trustme
from celery import Celery
from kombu import Connection
from redis.exceptions import NoPermissionError

from tests.acceptance.outcome import Outcome, customers
from tests.support.servers.broker_server import LOOPBACK, BrokerServer
from tests.support.servers.processes import Processes, eventually
from tests.support.servers.tls import encrypted
from workers.observe import doctor
from workers.settings.settings import parse

PRODUCTION = Path(__file__).parents[2] / "docs" / "production.md"


def documented() -> dict[str, list[str]]:
    """The ACL of each user, as its words."""
    text = PRODUCTION.read_text(encoding="utf-8").replace(" \\\n", "")
    lines = re.findall(r"^ACL SETUSER (\w+) (on .*)$", text, re.MULTILINE)
    return {user: rules.split() for user, rules in lines}


@pytest.mark.timeout(300)
def test_worker_relay_beat_and_a_client_need_no_other_rights(
    servers: dict[str, str],
    database_url: str,
    outcome: Outcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    customers(outcome.database, 3)
    authority = trustme.CA()
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(bundle)
    with BrokerServer(tmp_path) as broker, encrypted(broker.port, authority) as port:
        keeper = broker.client()
        for user, rules in documented().items():
            keeper.execute_command("ACL", "SETUSER", user, *[f">{user}-secret" if r[0] == ">" else r for r in rules])
        keeper.execute_command("ACL", "LOG", "RESET")
        addresses = servers | {
            "TENURE_DATABASE_URL": database_url,
            "TENURE_BROKER_URL": f"rediss://tenure:tenure-secret@{LOOPBACK}:{port}/0",
            "SSL_CERT_FILE": str(bundle),
        }
        with Processes(addresses, tmp_path) as processes:
            worker = processes.worker(concurrency=1)
            processes.relay()
            processes.beat()
            # The web tier's user, over the same link.
            options = {"ssl_ca_certs": str(bundle), "ssl_cert_reqs": "required"}
            address = f"rediss://web:web-secret@{LOOPBACK}:{port}/0"
            with Celery(broker=address, set_as_current=False) as client:
                client.conf.broker_use_ssl = options
                client.send_task("statements.send", kwargs={"account": "kunde-1"}, priority=6)
                client.send_task("none.such", kwargs={})
            eventually(lambda: outcome.states("job_requests") == {"done": 1}, "the request is done")
            eventually(lambda: outcome.query("SELECT FROM tenure.quarantine"), "the other one is in quarantine")
            # A message that another worker had in hand when it died.
            keeper.zadd("unacked_index", {"orphan": time.time() - 3_600})
            keeper.hset("unacked", "orphan", b"[]")
            eventually(lambda: not keeper.hlen("unacked"), "it is given back")
            worker.terminate()
            worker.await_end()
            refused = [(each["username"], each["object"]) for each in keeper.acl_log()]
            assert refused == []
            monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
            assert doctor.broker(parse(addresses)).trouble == ""
        with Connection(address, ssl=options) as connection, pytest.raises(NoPermissionError):
            connection.default_channel.client.brpop("celery", 1)
