"""`tenure doctor` on links that are sound, broken, encrypted, or not permitted (W16)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import trustme

from tests.integration.conftest import Run
from tests.support.servers.tls import encrypted


def test_the_doctor_finds_a_sound_installation_sound(tenure: Run) -> None:
    run = tenure("doctor")
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("✓") == run.stdout.count("without TLS") == 4


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("TENURE_DATABASE_URL", "postgresql://tenure@127.0.0.1:1/tenure", "TENURE_DATABASE_URL does not answer"),
        ("TENURE_BROKER_URL", "redis://127.0.0.1:1/0", "TENURE_BROKER_URL does not answer"),
        ("TENURE_S3_ENDPOINT", "http://127.0.0.1:1", "TENURE_S3_ENDPOINT does not answer"),
        ("TENURE_S3_BUCKET", "not-this-one", "has no bucket 'not-this-one'"),
        ("TENURE_MAIL_URL", "smtp://127.0.0.1:1", "TENURE_MAIL_URL does not answer"),
    ],
)
def test_the_doctor_says_in_words_what_is_wrong(tenure: Run, setting: str, value: str, said: str) -> None:
    run = tenure("doctor", **{setting: value})
    assert run.returncode == 1
    assert said in run.stdout
    assert (run.stdout.count("✗"), run.stdout.count("✓"), run.stderr) == (1, 3, "")


def test_the_doctor_knows_a_database_that_was_not_migrated(tenure: Run, template: str) -> None:
    run = tenure("doctor", TENURE_DATABASE_URL=template)
    assert run.returncode == 1
    assert "run tenure migrate" in run.stdout


def as_user(address: str, user: str, password: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
def newcomer(database_url: str) -> Iterator[psycopg.Connection]:
    """A role of PostgreSQL that may log in and nothing else; the connection is the owner's."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("CREATE ROLE newcomer LOGIN PASSWORD 'newcomer'")
        yield owner
        owner.execute("GRANT newcomer TO CURRENT_USER")
        owner.execute("DROP OWNED BY newcomer")
        owner.execute("DROP ROLE newcomer")


def test_the_doctor_says_what_a_role_may_not_do_and_how_to_grant_it(
    tenure: Run, database_url: str, newcomer: psycopg.Connection
) -> None:
    address = as_user(database_url, "newcomer", "newcomer")
    refused = tenure("doctor", TENURE_DATABASE_URL=address).stdout
    assert "may not use the schema 'tenure': GRANT USAGE ON SCHEMA tenure TO newcomer." in refused
    newcomer.execute("GRANT USAGE ON SCHEMA tenure TO newcomer")
    newcomer.execute("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA tenure TO newcomer")
    newcomer.execute("REVOKE INSERT ON tenure.statements FROM newcomer")
    refused = tenure("doctor", TENURE_DATABASE_URL=address).stdout
    assert "lacks INSERT on tenure.statements: GRANT INSERT ON ALL TABLES" in refused
    newcomer.execute("GRANT INSERT ON ALL TABLES IN SCHEMA tenure TO newcomer")
    assert tenure("doctor", TENURE_DATABASE_URL=address).returncode == 0


def test_the_doctor_says_what_a_brokers_user_may_not_do(tenure: Run, servers: Mapping[str, str]) -> None:
    owner = redis.Redis.from_url(servers["TENURE_BROKER_URL"])
    address = as_user(servers["TENURE_BROKER_URL"], "newcomer", "newcomer")
    try:
        owner.execute_command("ACL", "SETUSER", "newcomer", "on", ">newcomer", "~*", "&*", "+@all", "-lpush")
        assert "lacks rights: docs/production.md has its ACL" in tenure("doctor", TENURE_BROKER_URL=address).stdout
        owner.execute_command("ACL", "SETUSER", "newcomer", "+lpush", "-config")
        hosted = tenure("doctor", TENURE_BROKER_URL=address)
        assert hosted.returncode == 0, "hosted brokers refuse CONFIG"
        assert "does not say whether it evicts" in hosted.stdout
    finally:
        owner.execute_command("ACL", "DELUSER", "newcomer")
        owner.close()
    assert "refuses the user or the password" in tenure("doctor", TENURE_BROKER_URL=address).stdout


def test_production_on_links_with_tls_is_sound_and_says_so(
    tenure: Run, servers: Mapping[str, str], database_url: str, tmp_path: Path
) -> None:
    """The four adapters with certificates that are checked, and one that nobody vouches for."""
    authority, certificates = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(certificates)
    ports = {name: urlsplit(servers[name]).port or 0 for name in servers if name.endswith(("_URL", "_ENDPOINT"))}
    with (
        encrypted(ports["TENURE_DATABASE_URL"], authority, protocols=["postgresql"]) as database,
        encrypted(ports["TENURE_BROKER_URL"], authority) as broker,
        encrypted(ports["TENURE_S3_ENDPOINT"], authority) as objects,
        encrypted(ports["TENURE_MAIL_URL"], authority) as mail,
    ):
        parts = urlsplit(database_url)
        key = urlsplit(servers["TENURE_BROKER_URL"]).password
        production = {
            "TENURE_MODE": "production",
            "TENURE_DATABASE_URL": f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{database}{parts.path}"
            f"?sslmode=verify-full&sslnegotiation=direct&sslrootcert={certificates}",
            "TENURE_BROKER_URL": f"rediss://:{key}@127.0.0.1:{broker}/0",
            "TENURE_S3_ENDPOINT": f"https://127.0.0.1:{objects}",
            "TENURE_MAIL_URL": f"smtps://127.0.0.1:{mail}",
            "SSL_CERT_FILE": str(certificates),
            "AWS_CA_BUNDLE": str(certificates),
        }
        run = tenure("doctor", **production)
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stdout.count("over TLS") == 4
        stranger = tmp_path / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(stranger)
        refused = tenure(
            "doctor",
            **production
            | {
                "TENURE_DATABASE_URL": production["TENURE_DATABASE_URL"].replace(str(certificates), str(stranger)),
                "SSL_CERT_FILE": str(stranger),
                "AWS_CA_BUNDLE": str(stranger),
            },
        )
        assert refused.returncode == 1
        assert refused.stdout.count("✗") == 4, refused.stdout
