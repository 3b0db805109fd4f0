"""`tenure mail list` and `tenure mail preview` (E13)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from email_templates.catalogue import MESSAGES
from workers.commands.group import cli


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENURE_DATABASE_URL", raising=False)


def mail(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["mail", *arguments])


def test_the_catalogue_is_listed_with_its_promises() -> None:
    listed = mail("list").output
    for message in MESSAGES.values():
        assert f"{message.name}  {message.promise}  {'urgent' if message.urgent else 'in turn'}" in listed
    rows = json.loads(mail("list", "--json").output)
    assert [row["name"] for row in rows] == list(MESSAGES)
    assert rows[0]["languages"] == ["en", "ar", "de", "fr"] and "why_not_marketing" in rows[0]


def test_a_preview_is_the_text_in_the_language_and_zone_asked_for() -> None:
    shown = mail("preview", "termination-confirmed", "--language", "de-AT", "--time-zone", "Europe/Vienna")
    assert shown.exit_code == 0
    assert shown.output.startswith("Subject: Die Kündigung von Köhler & Söhne GmbH ist bestätigt\n\nGuten Tag ")
    assert "2. November 2026, 15:05 MEZ" in shown.output


def test_a_preview_may_be_a_file_of_another_variant(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    shown = mail("preview", "payment-reminder", "--variant", "final", "--html", str(page))
    assert (shown.exit_code, shown.output) == (0, f"Subject: Final payment reminder: €1,498.50\n{page}\n")
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["newsletter"], "The catalogue has no message 'newsletter'; it has account-set-up, "),
        (["export-ready", "--variant", "x"], "has no variant 'x'; it has 'small'"),
        (["export-ready", "--time-zone", "Mars"], "'Mars' is not a time zone that this machine knows"),
        (["export-ready", "--html", "/nowhere/page.html"], "/nowhere/page.html cannot be written: No such file"),
        (["export-ready", "--text", "--html", "x.html"], "--text does not go with --html"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_sentence(arguments: list[str], said: str) -> None:
    shown = mail("preview", *arguments)
    assert shown.exit_code == 2
    assert said in shown.output


def test_a_language_that_is_not_written_falls_back_and_says_so() -> None:
    shown = mail("preview", "export-reminder", "--language", "pt-BR")
    assert shown.exit_code == 0
    assert "nothing is written in 'pt-BR', so this is en" in shown.output
