"""The catalogue is closed, typed, and one to one with the folders (E1, P3.1a, P3.1e, P5.1)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import email_templates
from email_templates.catalogue import (
    MESSAGES,
    BadContext,
    UnknownMessage,
    find,
    read_context,
    write_context,
)
from email_templates.catalogue.message import Message
from email_templates.catalogue.statements import StatementReady
from email_templates.figures.statement import Ageing
from email_templates.mail.rendering import GIVEN

PACKAGE = Path(email_templates.__file__).parent
EXAMPLES = [
    pytest.param(context, id=f"{message.name}--{variant}")
    for message in MESSAGES.values()
    for variant, context in message.examples().items()
]


def test_folders_and_classes_are_one_to_one() -> None:
    folders = {path.name for path in (PACKAGE / "messages").iterdir() if path.is_dir()}
    assert folders == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_folder_holds_exactly_three_files(name: str) -> None:
    assert {path.name for path in (PACKAGE / "messages" / name).iterdir()} == {"subject.txt", "body.txt", "body.html"}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=lambda message: message.name)
def test_a_message_says_what_it_is_for(message: type[Message]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", message.name)
    assert re.fullmatch(r"P\d+\.\d+[a-f]?", message.promise)
    assert message.why_not_marketing.endswith(".") and len(message.why_not_marketing.split()) > 5
    assert "" in message.examples()


@pytest.mark.parametrize("message", MESSAGES.values(), ids=lambda message: message.name)
def test_a_context_is_frozen_and_closed(message: type[Message]) -> None:
    config = message.__struct_config__
    assert config.frozen and config.forbid_unknown_fields
    assert not set(message.__struct_fields__) & GIVEN, "a field would hide what every template is given"


@pytest.mark.parametrize("context", EXAMPLES)
def test_a_context_survives_the_database_row(context: Message) -> None:
    row = json.loads(json.dumps(write_context(context)))
    assert read_context(context.name, row) == context


def test_an_unknown_message_is_an_error_in_a_sentence() -> None:
    with pytest.raises(UnknownMessage, match=r"no message 'newsletter'; it has account-set-up, details-check"):
        find("newsletter")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"entries": "many"}, r"Expected `int`, got `str` - at `\$\.entries`"),
        ({"surprise": 1}, r"unknown field `surprise`"),
        ({"closing": 1}, r"does not add up"),
        ({"ageing": {"not_due": -1}}, r"no part of an ageing is negative"),
    ],
)
def test_a_bad_context_says_what_is_wrong(change: dict[str, object], reason: str) -> None:
    row = write_context(StatementReady.examples()[""]) | change
    with pytest.raises(BadContext, match=reason):
        read_context("statement-ready", row)


def test_a_missing_field_is_a_bad_context() -> None:
    with pytest.raises(BadContext, match="missing required field `statement_number`"):
        read_context("statement-ready", {})


def test_a_statement_message_adds_up() -> None:
    with pytest.raises(ValueError, match="its ageing makes 0, and its closing balance is 128950"):
        msgspec.structs.replace(StatementReady.examples()[""], ageing=Ageing())


def test_adding_a_message_is_a_class_and_a_folder(tmp_path: Path) -> None:
    copy = tmp_path / "email_templates"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    added = """

class SeatGivenBack(Message, frozen=True, kw_only=True):
    name = "seat-given-back"
    promise = "P3.1c"
    why_not_marketing = "It confirms what the customer has changed."
    ends_on: date
"""
    with (copy / "catalogue" / "termination.py").open("a") as module:
        module.write(added)
    folder = copy / "messages" / "seat-given-back"
    folder.mkdir()
    (folder / "subject.txt").write_text("A seat ends on {{ ends_on | date }}")
    (folder / "body.txt").write_text(
        "{% extends 'mail/layout/layout.txt' %}{% block content %}It ends on {{ ends_on | date }}.{% endblock %}"
    )
    (folder / "body.html").write_text(
        "{% extends 'mail/layout/layout.html' %}"
        "{% block content %}<p class='text'>It ends on {{ ends_on | date }}.</p>{% endblock %}"
    )
    program = """
from email_templates.catalogue import read_context
from email_templates.language.company import Company
from email_templates.mail.rendering import render
context = read_context("seat-given-back", {"ends_on": "2026-12-31"})
company = Company(name="Halden", address=("Oslo",), email="a@halden.example", website="halden.example")
mail = render(context, language="de", time_zone="UTC", company=company, recipient_name="Ada")
assert mail.subject == "A seat ends on 31. Dezember 2026", mail.subject
assert "Guten Tag Ada," in mail.text and "It ends on 31. Dezember 2026." in mail.text
assert 'style="font-family' in mail.html
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, check=True)


def test_the_catalogue_is_light_to_import() -> None:
    program = "import sys, email_templates.catalogue; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert not {"typst", "css_inline", "babel", "jinja2"} & set(loaded)
