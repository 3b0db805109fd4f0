"""What messages say, and what no value can make of them (E3, E6, E7, P7). Their markup is the lint's (E16)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import email_templates
from email_templates.catalogue import MESSAGES
from email_templates.catalogue.accounts import AccountSetUp
from email_templates.catalogue.message import Message
from email_templates.catalogue.payments import Allocation, PaymentReceived
from email_templates.catalogue.reminders import OpenInvoice, PaymentReminder
from email_templates.catalogue.security import SecurityNotice
from email_templates.catalogue.service import ServiceNotice
from email_templates.catalogue.statements import StatementReady
from email_templates.language import plain_text
from email_templates.mail.inlining import LosesMarkup, inlined
from email_templates.mail.lint import TAGS, findings
from email_templates.mail.markup import page
from email_templates.mail.rendering import SUBJECT_LENGTH, environment
from tests.support.rendered.messages import CASES, COMPANY, LANGUAGES, rendered

EVIL = "<img src=x onerror=alert(1)> & \"q\" 's' {{ 7*7 }} {% raw %} %(name)s %s"


#: Kept to be read: each message and variant in English, and each message in German. The pages hold the same words as
#: the texts, so a few that have every part between them show the markup.
GOLDEN = [
    case for case in CASES if str(case.id).endswith(".en") or ("--" not in str(case.id) and ".de" in str(case.id))
]
GOLDEN_PAGES = [
    case for case in CASES if str(case.id) in {"statement-ready.en", "payment-reminder.de-AT", "export-ready.ar-EG"}
]


@pytest.mark.parametrize(("context", "language"), GOLDEN)
def test_golden_text(context: Message, language: str, request: pytest.FixtureRequest, golden) -> None:
    mail = rendered(context, language)
    golden(f"mail/{request.node.callspec.id}.txt", f"Subject: {mail.subject}\n\n{mail.text}")


@pytest.mark.parametrize(("context", "language"), GOLDEN_PAGES)
def test_golden_page(context: Message, language: str, request: pytest.FixtureRequest, golden) -> None:
    golden(f"mail/{request.node.callspec.id}.html", rendered(context, language).html)


def test_golden_files_are_those_of_the_catalogue() -> None:
    folder = Path(__file__).parents[2] / "golden" / "mail"
    expected = {f"{case.id}.txt" for case in GOLDEN} | {f"{case.id}.html" for case in GOLDEN_PAGES}
    assert {path.name for path in folder.iterdir()} == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_amounts_are_those_of_the_context(language: str) -> None:
    context = StatementReady.examples()[""]
    who = email_templates.language.reader.reader(language, "UTC")
    mail = rendered(context, language)
    for minor in (context.opening, context.charges, context.payments, context.closing, context.ageing.overdue):
        written = who.money(minor, "EUR")
        assert written in mail.text and written in mail.html


def test_an_unknown_language_is_english_in_words_and_figures() -> None:
    context = StatementReady.examples()[""]
    assert rendered(context, "xx") == rendered(context, "en") == rendered(context, "pt_BR")


def test_who_has_no_name_is_greeted_all_the_same() -> None:
    assert rendered(AccountSetUp.examples()[""], name=" \n").text.startswith("Hello,\n")


def test_plurals_follow_the_number() -> None:
    statement = StatementReady.examples()[""]
    texts = [rendered(msgspec.structs.replace(statement, entries=n)).text.replace("\n", " ") for n in (0, 1, 2)]
    assert "Nothing was entered in the period." in texts[0]
    assert "shows the one entry" in texts[1]
    assert "shows all 2 entries" in texts[2]


def test_a_thousand_invoices_are_summed_up_and_the_message_stays_small() -> None:
    invoices = tuple(OpenInvoice(number=f"INV-{n:05}", due_on=date(2026, 1, 5), still_open=100) for n in range(1_000))
    several = PaymentReminder.examples()[""]
    mail = rendered(msgspec.structs.replace(several, invoices=invoices, others=0, fees=0, total=100_000))
    assert findings(mail, language="en", own_host=COMPANY.website) == []
    assert "1,000 are still not paid" in mail.text
    assert re.search(r"INV-00039 +€1\.00\n.*\n  960 more invoices +€960\.00\n  Total +€1,000\.00", mail.text)
    parts = tuple(Allocation(invoice_number=f"INV-{n:05}", amount=100) for n in range(41))
    receipt = msgspec.structs.replace(PaymentReceived.examples()[""], allocations=parts, amount=4_100, kept=0)
    assert re.search(r"INV-00039 +€1\.00\n    settled\n  one more invoice +€1\.00\n", rendered(receipt).text)


# What must not happen


@pytest.mark.parametrize("file", ["subject.txt", "body.txt", "body.html"])
def test_an_undefined_variable_fails_before_anything_is_returned(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = environment().overlay(cache_size=0)
    original = environment().loader
    assert original is not None
    path = f"messages/account-set-up/{file}"
    source = original.get_source(broken, path)[0] + "{{ nobody }}"
    if file.startswith("body"):
        source = source.replace("{% block content %}", "{% block content %}{{ account_nmae }}")
    monkeypatch.setattr(broken, "loader", jinja2.ChoiceLoader([jinja2.DictLoader({path: source}), original]))
    monkeypatch.setattr("email_templates.mail.rendering.environment", lambda: broken)
    with pytest.raises(jinja2.UndefinedError, match="is undefined"):
        rendered(AccountSetUp.examples()[""])


HOSTILE = st.text(max_size=40) | st.sampled_from(
    [
        "x\r\nBcc: all@example.org",
        "\n\n<html>",
        "a\u2028b\u0085c\x0b\x0c\x1cd",
        "\u202eevil\u2066",
        "\ud800",
        "",
        "é" * 500,
    ]
)


def spoiled(value: object, text: Callable[[], str]) -> Any:
    """The value with every text that somebody else may have written replaced, in all its parts."""
    if type(value) is str:
        return text()
    if isinstance(value, msgspec.Struct):
        own = {"page", "currency"}
        fields = {name: getattr(value, name) for name in value.__struct_fields__ if name not in own}
        return msgspec.structs.replace(value, **{name: spoiled(field, text) for name, field in fields.items()})
    return tuple(spoiled(part, text) for part in value) if isinstance(value, tuple) else value


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(MESSAGES)), st.sampled_from(sorted(LANGUAGES)), st.data())
def test_no_value_breaks_a_subject_or_the_page(message: str, language: str, data: st.DataObject) -> None:
    context = MESSAGES[message].examples()[""]
    hostile = spoiled(context, lambda: data.draw(HOSTILE))
    mail = rendered(hostile, language, data.draw(HOSTILE, label="name"))
    assert len(mail.subject.splitlines()) == 1
    assert not [c for c in mail.subject if unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"}]
    assert 0 < len(mail.subject) <= SUBJECT_LENGTH
    assert mail.subject.count("\u2068") == mail.subject.count("\u2069")
    assert not set(mail.subject + mail.text + mail.html) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067")
    (mail.subject + mail.text + mail.html).encode()
    # No element came from a value.
    assert mail.html.count("<a ") == rendered(context, language).html.count("<a ")
    assert {element.tag for element in page(mail.html).all()} <= TAGS


def test_markup_in_values_is_text() -> None:
    mail = rendered(StatementReady(**{**_fields(StatementReady.examples()[""]), "account_name": EVIL}), name=EVIL)
    read = page(mail.html)
    assert not list(read.all("img"))
    assert EVIL in read.words and EVIL in " ".join(mail.text.split())
    assert "49" not in mail.text


def test_a_name_cannot_begin_a_line_of_its_own() -> None:
    mail = rendered(AccountSetUp.examples()[""], name="Ada,\n\nYour account is closed. Pay at once:\nbitcoin:xyz")
    assert mail.text.startswith("Hello Ada, Your account is closed. Pay at onc…,\n")


def test_addresses_in_values_are_text_and_named_as_third_party() -> None:
    """The hosts are named in the message (P7.1)."""
    name = "Visit https://user@Evil.example:8080/?a=1, www.other.example and http://halden.example/ours"
    context = msgspec.structs.replace(SecurityNotice.examples()[""], account_name=name)
    mail = rendered(context)
    assert plain_text.hosts_named([name], COMPANY.website) == ("evil.example:8080", "other.example")
    for part in (mail.text.replace("\n", " "), page(mail.html).words):
        assert "names addresses outside our company: evil.example:8080, other.example." in part
    assert len(list(page(mail.html).all("a"))) == 1
    assert "outside our company" not in rendered(SecurityNotice.examples()[""]).text


def test_text_of_the_other_direction_is_isolated() -> None:
    context = msgspec.structs.replace(AccountSetUp.examples()[""], account_name="شركة النور (ش.م.م)")
    assert "\u2068شركة النور (ش.م.م)\u2069" in rendered(context, "de").subject
    assert "\u2068" not in rendered(context, "ar").subject
    assert "\u2068C-20931\u2069" in rendered(context, "ar").text


def test_a_long_subject_is_cut_between_letters_and_closes_what_it_opened() -> None:
    accented = "e\u0301" * 200
    mail = rendered(msgspec.structs.replace(ServiceNotice.examples()[""], topic=accented))
    assert len(mail.subject) <= SUBJECT_LENGTH and mail.subject.endswith("e\u0301…")
    hebrew = rendered(msgspec.structs.replace(ServiceNotice.examples()[""], topic="ש" * 500))
    assert hebrew.subject.endswith("…\u2069")
    assert plain_text.cut("\u2068" + "ש" * 50 + "\u2069", 20) == "\u2068" + "ש" * 17 + "\u2069…"


def test_a_company_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="not a host name"):
        msgspec.structs.replace(COMPANY, website='https://halden.example"')
    with pytest.raises(ValueError, match="has no name"):
        msgspec.structs.replace(COMPANY, name=" ")


# Styles


def test_inlining_keeps_jinja_where_it_stands() -> None:
    source = (
        '<table class="a"><tbody>{% for x in y %}\n<tr><td align="{{ x["<b>"] }}">{{ x & 1 }}</td></tr>'
        "{# <p> #}{% endfor %}</tbody></table>"
    )
    assert inlined(source, ".a { color: red }", "x") == source.replace('class="a"', 'class="a" style="color: red;"')


@pytest.mark.parametrize("source", ["<tr><td>x</td></tr>", "<table><tr><td>x</td></tr></table>", "<p><div>x</div></p>"])
def test_a_template_that_a_parser_would_change_is_refused(source: str) -> None:
    with pytest.raises(LosesMarkup, match="Write whole tables"):
        inlined(source, "", "part.html")


def test_an_instant_is_the_readers_own() -> None:
    context = msgspec.structs.replace(AccountSetUp.examples()[""], set_up_at=datetime(2026, 3, 28, 23, 30, tzinfo=UTC))
    assert "29. März 2026, 00:30 MEZ" in rendered(context, "de").text


def _fields(context: Message) -> dict[str, object]:
    return {name: getattr(context, name) for name in context.__struct_fields__}
