"""Settings: parsed once; what is missing or wrong is named, and no value is ever quoted (W22, P5.1a, W41)."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from workers.settings.settings import Mode, SettingsError, parse

#: A value that must stand in no error.
SECRET = "s3cr3t-hunter2"

PRODUCTION = {
    "TENURE_DATABASE_URL": f"postgresql://tenure:{SECRET}@db.example/tenure?sslmode=verify-full",
    "TENURE_BROKER_URL": f"rediss://:{SECRET}@broker.example/0",
    "TENURE_S3_ENDPOINT": "https://s3.example",
    "TENURE_S3_ACCESS_KEY": "key",
    "TENURE_S3_SECRET_KEY": SECRET,
    "TENURE_MAIL_URL": f"smtps://user:{SECRET}@mail.example",
    "TENURE_MAIL_FROM": "billing@company.example",
    "TENURE_KEY_ENCRYPTION_KEYS": base64.b64encode(bytes(32)).decode(),
    "TENURE_CERTIFICATE_KEYS": base64.b64encode(bytes(32)).decode(),
}
REQUIRED = list(PRODUCTION)


def refusal(environment: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(environment)
    said = str(caught.value)
    assert SECRET not in said
    assert said.endswith(".")
    return said


def test_what_production_needs_is_enough_and_production_is_the_default() -> None:
    settings = parse(PRODUCTION)
    assert settings.mode is Mode.PRODUCTION
    assert settings.database_url == PRODUCTION["TENURE_DATABASE_URL"]
    assert settings.lease == timedelta(seconds=60)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("without", [None, ""])
def test_a_setting_that_is_missing_or_empty_is_named(name: str, without: str | None) -> None:
    environment = {key: value for key, value in PRODUCTION.items() if key != name}
    if without is not None:
        environment[name] = without
    assert refusal(environment).startswith(f"{name} is not set.")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TENURE_FLOWER_PORT", SECRET),
        ("TENURE_LEASE_SECONDS", SECRET),
        ("TENURE_DRAIN_SECONDS", "10s"),
        ("TENURE_SOFT_TIME_LIMIT", "1.5"),
        ("TENURE_MODE", SECRET),
        ("TENURE_MODE", f"it's '{SECRET}'\n"),
    ],
)
def test_a_setting_of_the_wrong_type_is_named_and_not_quoted(name: str, value: str) -> None:
    said = refusal(PRODUCTION | {name: value})
    assert name in said
    assert value not in said


def test_a_wrong_mode_is_told_which_there_are() -> None:
    assert "production, local" in refusal(PRODUCTION | {"TENURE_MODE": "staging"})


@pytest.mark.parametrize("name", ["ACCENT", "LOGO", "WEBSITE"])
def test_what_makes_no_letterhead_is_told_at_start_and_not_quoted(name: str) -> None:
    assert "The company's" in refusal(PRODUCTION | {f"TENURE_COMPANY_{name}": f"<{SECRET}>"})


@pytest.mark.parametrize("name", ["MAIL_FROM", "MAIL_REPLY_TO", "COMPANY_EMAIL"])
def test_an_address_that_is_none_is_told_at_start_and_not_quoted(name: str) -> None:
    said = refusal(PRODUCTION | {f"TENURE_{name}": f"{SECRET}@company"})
    assert f"TENURE_{name} is not an e-mail address. The part after the @-sign is not valid." in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("hello=x", "takes helo and source"),
        ("helo=a%20b", "helo must be a host name"),
        ("helo=", "helo must be a host name"),
        ("source=here", "source must be an IP address"),
    ],
)
def test_an_option_of_a_mail_server_that_is_none_is_named_and_not_quoted(option: str, said: str) -> None:
    address = f"smtps://user:{SECRET}@mail.example"
    parse(PRODUCTION | {"TENURE_MAIL_URL": f"{address}?helo=out.company.example&source=192.0.2.1"})
    refused = refusal(PRODUCTION | {"TENURE_MAIL_URL": f"{address}?{option}"})
    assert said in refused
    assert SECRET not in refused


def test_numbers_come_as_text_and_are_numbers() -> None:
    settings = parse(PRODUCTION | {"TENURE_LEASE_SECONDS": "2.5", "TENURE_FLOWER_PORT": "8080"})
    assert (settings.lease, settings.flower_port) == (timedelta(seconds=2.5), 8080)


def test_any_setting_may_come_from_a_file_which_wins(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f" {SECRET}\n", encoding="utf-8")
    settings = parse(PRODUCTION | {"TENURE_S3_SECRET_KEY": "other", "TENURE_S3_SECRET_KEY_FILE": str(file)})
    assert settings.s3_secret_key == SECRET
    without = {key: value for key, value in PRODUCTION.items() if key != "TENURE_S3_SECRET_KEY"}
    assert parse(without | {"TENURE_S3_SECRET_KEY_FILE": str(file)}).s3_secret_key == SECRET


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    said = refusal(PRODUCTION | {"TENURE_S3_SECRET_KEY_FILE": str(missing)})
    assert "TENURE_S3_SECRET_KEY_FILE" in said
    assert str(missing) in said


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("TENURE_DATABASE_URL", f"postgresql://tenure:{SECRET}@db.example/tenure"),
        ("TENURE_DATABASE_URL", f"postgresql://tenure:{SECRET}@db.example/tenure?sslmode=require"),
        ("TENURE_DATABASE_URL", f"postgresql://tenure:{SECRET}@db.example/tenure?sslmode=disable"),
        ("TENURE_DATABASE_URL", f"postgresql://tenure:p℀{SECRET}@[db.example/tenure"),
        ("TENURE_BROKER_URL", f"redis://:{SECRET}@broker.example/0"),
        ("TENURE_S3_ENDPOINT", f"http://{SECRET}.example"),
        ("TENURE_MAIL_URL", f"smtp://user:{SECRET}@mail.example"),
        ("TENURE_DOWNLOAD_ADDRESS", "192.0.2.1"),
    ],
)
def test_production_refuses_a_link_that_could_be_read_on_its_way(name: str, plain: str) -> None:
    said = refusal(PRODUCTION | {name: plain})
    assert f"{name} is a link without TLS" in said
    assert "TENURE_MODE=local" in said
    assert parse(PRODUCTION | {name: plain, "TENURE_MODE": "local"}).mode is Mode.LOCAL


def test_the_download_page_leaves_the_machine_with_a_certificate_only() -> None:
    parse(PRODUCTION | {"TENURE_DOWNLOAD_ADDRESS": "::1"})
    everywhere = PRODUCTION | {"TENURE_DOWNLOAD_ADDRESS": "192.0.2.1"}
    assert "TENURE_DOWNLOAD_KEY" in refusal(everywhere)
    assert "TENURE_DOWNLOAD_KEY" in refusal(everywhere | {"TENURE_DOWNLOAD_CERTIFICATE": "page.pem"})
    parse(everywhere | {"TENURE_DOWNLOAD_CERTIFICATE": "page.pem", "TENURE_DOWNLOAD_KEY": "page.key"})


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
def test_production_takes_links_whose_certificates_are_checked(scheme: str, sslmode: str) -> None:
    parse(
        PRODUCTION
        | {
            "TENURE_MAIL_URL": f"{scheme}://mail.example",
            "TENURE_DATABASE_URL": f"postgresql://db.example/tenure?application_name=x&sslmode={sslmode}",
        }
    )


@profile(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.sampled_from([*REQUIRED, "TENURE_MODE", "TENURE_FLOWER_PORT", "TENURE_TIME_LIMIT"]), st.text(min_size=4))
def test_whatever_a_setting_holds_is_never_part_of_an_error(name: str, value: str) -> None:
    # Marked, so that it is not part of our own words by chance.
    marked = f"\u2603{value}\u2603"
    try:
        parse(PRODUCTION | {name: marked})
    except SettingsError as error:
        assert "\u2603" not in str(error)


@pytest.mark.parametrize(
    "other", ["amqp://user:secret@rabbit", "sqs://", "memory://", "sentinel://secret@host:26379", "filesystem://"]
)
def test_another_broker_is_refused_in_a_sentence(other: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(PRODUCTION | {"TENURE_BROKER_URL": other})
    assert "TENURE_BROKER_URL is no address of a Redis or Valkey server" in str(caught.value)
    assert "secret" not in str(caught.value)
