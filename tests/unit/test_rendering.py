"""Every message in every language: what it says, what it never holds, how it looks (E3 to E7, P1.2, P7)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import email_templates
from email_templates import plain_text
from email_templates.catalogue import MESSAGES
from email_templates.catalogue.accounts import AccountSetUp
from email_templates.catalogue.message import Message
from email_templates.catalogue.security import SecurityNotice
from email_templates.catalogue.service import ServiceNotice
from email_templates.catalogue.statements import StatementReady
from email_templates.company import Company
from email_templates.inlining import LosesMarkup, inlined
from email_templates.rendering import SUBJECT_LENGTH, Rendered, environment, render

COMPANY = Company(
    name="Halden Software",
    address=("Storgata 12", "0155 Oslo", "Norway"),
    email="billing@halden.example",
    website="halden.example",
    registration=("NO 987 654 321 MVA",),
    bank_account=("DNB Bank", "IBAN NO93 8601 1117 947", "BIC DNBANOKK"),
)
LANGUAGES = {"en": "en", "de-AT": "de-AT", "fr": "fr", "ar-EG": "ar-EG"}
CASES = [
    pytest.param(context, language, id=f"{message.name}{'--' + variant if variant else ''}.{language}")
    for message in MESSAGES.values()
    for variant, context in message.examples().items()
    for language in LANGUAGES
]
LAYOUT = Path(email_templates.__file__).parent / "_layout"
VOID = {"meta", "br"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "div", "h1", "p", "br", "strong", "span", "a"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}
EVIL = "<img src=x onerror=alert(1)> & \"q\" 's' {{ 7*7 }} {% raw %} %(name)s %s"


@cache
def rendered(context: Message, language: str = "en", name: str = "Luís Gonçalves") -> Rendered:
    return render(context, language=language, time_zone="Europe/Vienna", company=COMPANY, recipient_name=name)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, *tags: str) -> Iterator[Element]:
        for child in self.children:
            if child.tag in tags:
                yield child
            yield from child.all(*tags)

    @property
    def words(self) -> str:
        """All text below."""
        return " ".join([self.text, *(child.words for child in self.children)])


class Page(HTMLParser):
    """A strict reading of a page: what is opened is closed, in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(source)
        self.close()
        assert len(self._open) == 1, f"<{self._open[-1].tag}> is never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs), f"<{tag}> has an attribute twice"
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].text += data


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
    folder = Path(__file__).parents[1] / "golden" / "mail"
    expected = {f"{case.id}.txt" for case in GOLDEN} | {f"{case.id}.html" for case in GOLDEN_PAGES}
    assert {path.name for path in folder.iterdir()} == expected


@pytest.mark.parametrize(("context", "language"), CASES)
def test_a_page_is_accessible_and_loads_nothing(context: Message, language: str) -> None:
    mail = rendered(context, language)
    page = Page(mail.html).root
    (html,) = page.all("html")
    assert html.attributes == {"lang": language, "dir": "rtl" if language.startswith("ar") else "ltr"}
    (title,) = page.all("title")
    assert title.text == mail.subject
    assert len(list(page.all("h1"))) == 1
    assert len(mail.html.encode()) < 100_000

    tags = {element.tag for element in page.all(*re.findall(r"<([a-z0-9]+)", mail.html))}
    assert tags <= TAGS
    assert not re.search(r"url\(|@import|@font-face|expression\(|javascript:|data:", mail.html, re.IGNORECASE)
    for element in page.all(*tags):
        names = set(element.attributes)
        assert not {name for name in names if name.startswith("on")}
        assert not names & {"src", "srcset", "background", "poster", "ping", "action", "style-src", "id"}
    # Links lead to our own site, without a query that could tell one reader from another.
    links = [a.attributes["href"] for a in page.all("a")]
    assert links and all(re.fullmatch(r"https://halden\.example(/[\w-]+)*", link) for link in links)
    foreign = set(re.findall(r"https?://[^\s\"<\u2069]+", mail.html)) - set(links)
    assert foreign <= {"https://status.example.org/upgrade"}


@pytest.mark.parametrize(("context", "language"), CASES)
def test_tables_are_for_layout_or_have_heads(context: Message, language: str) -> None:
    for table in Page(rendered(context, language).html).root.all("table"):
        if table.attributes.get("role") == "presentation":
            assert "caption" not in {child.tag for child in table.children}
        else:
            (caption,) = table.all("caption")
            assert caption.text.strip()
            for heads in table.all("thead"):
                assert all(head.attributes["scope"] == "col" and head.text.strip() for head in heads.all("th"))
            (body,) = table.all("tbody")
            for row in body.all("tr"):
                head, cell = row.children
                assert head.tag == "th" and head.attributes["scope"] == "row" and head.text.strip()
                assert cell.tag == "td" and cell.text.strip()


def plain(text: str) -> str:
    """Without isolates, marks and kinds of space, in which text and HTML may differ."""
    text = "".join(" " if c.isspace() else c for c in text if unicodedata.category(c) != "Cf")
    return re.sub(r" +", " ", text)


@pytest.mark.parametrize(("context", "language"), CASES)
def test_text_and_html_say_the_same(context: Message, language: str) -> None:
    mail = rendered(context, language)
    text = plain(mail.text)
    page = Page(mail.html).root
    for row in page.all("tr"):
        if [child.tag for child in row.children] == ["th", "td"]:
            head, cell = (plain(child.text).strip() for child in row.children)
            assert re.search(re.escape(head) + r"[ :]+" + re.escape(cell), text), (head, cell)
    for paragraph in page.all("p", "strong", "span", "a"):
        for words in plain(paragraph.words).split("·"):
            assert words.strip() in text or len(paragraph.children) > 1, words
    (h1,) = page.all("h1")
    assert h1.text.strip()


@pytest.mark.parametrize(("context", "language"), CASES)
def test_a_text_part_is_narrow_and_whole(context: Message, language: str) -> None:
    text = rendered(context, language).text
    assert text.endswith("\n") and not text.endswith("\n\n") and "\n\n\n" not in text
    for line in text.splitlines():
        assert line == line.rstrip()
        assert line.startswith("  ") or len(line) <= 76
    assert not re.search(r"\{\{|\{%|%\(|None|<[a-z/]", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_amounts_are_those_of_the_context(language: str) -> None:
    context = StatementReady.examples()[""]
    who = email_templates.reader.reader(language, "UTC")
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


# What must not happen


@pytest.mark.parametrize("file", ["subject.txt", "body.txt", "body.html"])
def test_an_undefined_variable_fails_before_anything_is_returned(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = environment().overlay(cache_size=0)
    original = environment().loader
    assert original is not None
    path = f"account-set-up/{file}"
    source = original.get_source(broken, path)[0] + "{{ nobody }}"
    if file.startswith("body"):
        source = source.replace("{% block content %}", "{% block content %}{{ account_nmae }}")
    monkeypatch.setattr(broken, "loader", jinja2.ChoiceLoader([jinja2.DictLoader({path: source}), original]))
    monkeypatch.setattr("email_templates.rendering.environment", lambda: broken)
    with pytest.raises(jinja2.UndefinedError, match="is undefined"):
        rendered(AccountSetUp.examples()[""])


HOSTILE = st.text(st.characters(), max_size=300) | st.sampled_from(
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


@settings(max_examples=150, deadline=None)
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
    assert set(re.findall(r"<[^/\s>]+", mail.html)) <= {f"<{tag}" for tag in TAGS} | {"<!DOCTYPE"}
    Page(mail.html)


def test_markup_in_values_is_text() -> None:
    mail = rendered(AccountSetUp(**{**_fields(AccountSetUp.examples()[""]), "account_name": EVIL}), name=EVIL)
    page = Page(mail.html).root
    assert not list(page.all("img"))
    assert EVIL in page.words and EVIL in mail.text
    assert "49" not in mail.text


def test_a_name_cannot_begin_a_line_of_its_own() -> None:
    mail = rendered(AccountSetUp.examples()[""], name="Ada,\n\nYour account is closed. Pay at once:\nbitcoin:xyz")
    assert mail.text.startswith("Hello Ada, Your account is closed. Pay at once: bitcoin:xyz,\n")


def test_addresses_in_values_are_text_and_named_as_third_party() -> None:
    name = "Visit https://user@Evil.example:8080/?a=1, www.other.example and http://halden.example/ours"
    context = msgspec.structs.replace(SecurityNotice.examples()[""], account_name=name)
    mail = rendered(context)
    assert plain_text.hosts_named([name], COMPANY.website) == ("evil.example:8080", "other.example")
    for part in (mail.text.replace("\n", " "), Page(mail.html).root.words):
        assert "names addresses outside our company: evil.example:8080, other.example." in part
    assert len(list(Page(mail.html).root.all("a"))) == 1
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


LIGHT = {"page": "#f3f2ee", "sheet": "#ffffff", "hero": "#f2f6f5"}
DARK = {"page": "#131416", "sheet": "#1c1e21", "hero": "#212927"}
ON = {
    "letterhead": "page",
    **dict.fromkeys(["title", "text", "muted", "data-title", "data-label", "data-value", "total"], "sheet"),
    **dict.fromkeys(["signature", "notice-cell"], "sheet"),
    **dict.fromkeys(["footer", "footer-text", "link"], "page"),
    **dict.fromkeys(["hero-figure", "hero-label", "hero-note", "attention"], "hero"),
}


def _colour_of(name: str, css: str) -> str:
    found = ""
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css):
        if f".{name}" in (selector.strip() for selector in selectors.split(",")):
            found = (re.findall(r"(?<![-\w])color: (#[0-9a-f]{6})", body) or [found])[-1]
    return found


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", ON)
@pytest.mark.parametrize(("sheet", "grounds"), [("mail.css", LIGHT), ("adaptive.css", DARK)], ids=["light", "dark"])
def test_contrast_is_aa(name: str, sheet: str, grounds: dict[str, str]) -> None:
    css = (LAYOUT / sheet).read_text()
    if sheet == "adaptive.css":
        css = css[css.index("@media (prefers-color-scheme: dark) {") + 37 :]
    assert grounds[ON[name]] in css
    colours = sorted([_luminance(_colour_of(name, css)), _luminance(grounds[ON[name]])])
    assert (colours[1] + 0.05) / (colours[0] + 0.05) >= 4.5


def _fields(context: Message) -> dict[str, object]:
    return {name: getattr(context, name) for name in context.__struct_fields__}
