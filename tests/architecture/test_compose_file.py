"""docker-compose.yml: valid, without default passwords, closed to the outside, and complete."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence

import msgspec
import pytest

from tests.architecture.repository import ROOT, VARIABLE, app_services, compose, filled
from tests.support.time.deadlines import deadline
from workers.celery.routing import QUEUES
from workers.settings.settings import PREFIX, Mode, Settings, parse

SETTINGS = {f"{PREFIX}{field.name.upper()}" for field in msgspec.structs.fields(Settings)}


def test_it_follows_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run(
        [*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, check=False, timeout=deadline(60)
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_has_every_process_of_the_platform() -> None:
    assert set(app_services()) == {"migrate", "worker", "beat", "relay", "metrics", "flower"}
    assert set(compose()["services"]) - set(app_services()) == {"postgres", "valkey", "s3", "mailpit"}


@pytest.mark.parametrize("name", app_services())
def test_every_name_in_the_environment_is_a_setting(name: str) -> None:
    assert set(app_services()[name]["environment"]) <= SETTINGS


@pytest.mark.parametrize("name", app_services())
def test_the_environment_makes_settings(name: str) -> None:
    given = {key: str(value) for key, value in app_services()[name]["environment"].items()}
    passwords: dict[str, str] = defaultdict(lambda: "0123456789abcdef")
    made = parse({key: filled(value, passwords) for key, value in given.items()})
    assert made.mode is Mode.LOCAL, "links inside the compose network are plaintext"
    assert "0123456789abcdef" in made.database_url


def test_no_password_is_written_down() -> None:
    for service in compose()["services"].values():
        for name, value in (service.get("environment") or {}).items():
            if name.endswith(("PASSWORD", "SECRET_KEY", "_AUTH", "SECRET_ACCESS_KEY")):
                assert VARIABLE.fullmatch(value), f"{name} must come from outside and have no default"
            if "://" in str(value) and "@" in str(value):
                assert VARIABLE.search(value), f"{name} holds a password"


def test_ports_are_published_on_loopback_alone() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", app_services())
def test_app_services_run_with_as_few_rights_as_can_be(name: str) -> None:
    """No root, no writable root file system, no capabilities (W23)."""
    service = app_services()[name]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert "privileged" not in service
    assert "cap_add" not in service


def test_every_server_is_asked_whether_it_is_ready() -> None:
    servers = {name: service for name, service in compose()["services"].items() if name not in app_services()}
    for name, service in servers.items():
        assert service["healthcheck"]["test"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["user"] not in {"root", "0", "0:0"}, name
    for name, service in app_services().items():
        assert name == "migrate" or service["healthcheck"]["test"], name
    conditions = app_services()["worker"]["depends_on"]
    assert {name: wanted["condition"] for name, wanted in conditions.items()} == {
        "migrate": "service_completed_successfully"
    } | dict.fromkeys(servers, "service_healthy")


def test_every_queue_is_consumed() -> None:
    consumed: set[str] = set()
    for service in app_services().values():
        command = service["command"]
        if "worker" in command:
            consumed |= set(_queues(command))
    assert set(QUEUES) <= consumed


def _queues(command: Sequence[str]) -> Sequence[str]:
    """What a `celery worker` consumes: the queues after -Q, or all that the app declares."""
    for at, word in enumerate(command):
        if word in {"-Q", "--queues"}:
            return command[at + 1].split(",")
        if word.startswith("--queues="):
            return word.partition("=")[2].split(",")
    return QUEUES
