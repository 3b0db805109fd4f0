"""Every message in every language passes the lint, and the lint finds what it is for (E4 to E6)."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

import email_templates
from email_templates.catalogue.message import Message
from email_templates.catalogue.service import PolicyUpdated
from email_templates.mail.lint import findings
from email_templates.mail.markup import NotWellFormed
from tests.support.rendered.messages import CASES, COMPANY, rendered

LAYOUT = Path(email_templates.__file__).parent / "mail" / "layout"


@pytest.mark.parametrize(("context", "language"), CASES)
def test_a_message_has_no_findings(context: Message, language: str) -> None:
    assert findings(rendered(context, language), language=language, own_host=COMPANY.website) == []


@pytest.mark.parametrize(
    ("planted", "finding"),
    [
        ('<img alt="" width="1" height="1">', "<img> is not among"),
        ('<link rel="stylesheet" href="https://halden.example">', "<link> is not among"),
        ('<p style="background: URL (//x.example/p)">x</p>', "may load something"),
        ('<p background="//x.example/p">x</p>', "carries background"),
        ('<p onclick="x()">x</p>', "carries onclick"),
        ('<meta http-equiv="refresh" content="0">', "carries http-equiv"),
        ("<style>@import '//x.example/p';</style>", "may load something"),
        ("<style>p { background: u\\72l(x) }</style>", "may load something"),
        ('<!--[if mso]><v:fill src="https://x.example"/><![endif]-->', "comment may load"),
        ('<a href="https://click.example/?to=halden">x</a>', "not a plain one"),
        ('<a href="https://halden.example/?u=1">x</a>', "not a plain one"),
        ('<a href="https://halden.example.evil.example">x</a>', "not a plain one"),
        ('<a href="http://halden.example">x</a>', "not a plain one"),
        ("<table><tbody><tr><td>1</td></tr></tbody></table>", "has no caption"),
        ("<p>Only in HTML</p>", "text does not say 'Only in HTML'"),
        ("<p>{{ name }}</p>", "left over in the page"),
        ("<h1>Another</h1>", "exactly one heading"),
    ],
)
def test_the_lint_finds_what_is_planted(planted: str, finding: str) -> None:
    mail = rendered(PolicyUpdated.examples()[""])
    if planted.startswith(("<img", "<link", "<meta")):
        planted = planted if planted.startswith("<meta") else planted + f"</{planted[1:].split(maxsplit=1)[0]}>"
    spoiled = msgspec.structs.replace(mail, html=mail.html.replace("</body>", f"{planted}</body>"))
    found = findings(spoiled, language="en", own_host=COMPANY.website)
    assert any(finding in each for each in found), found


@pytest.mark.parametrize("planted", ["<p>x", "</p>", '<p dir="ltr" dir="rtl">x</p>', "<p><strong>x</p></strong>"])
def test_the_lint_refuses_what_is_not_well_formed(planted: str) -> None:
    mail = rendered(PolicyUpdated.examples()[""])
    spoiled = msgspec.structs.replace(mail, html=mail.html.replace("</body>", f"{planted}</body>"))
    with pytest.raises(NotWellFormed):
        findings(spoiled, language="en", own_host=COMPANY.website)


# Contrast, by WCAG 2.1, 1.4.3. The browser's test computes it again on the pages themselves.

#: On which ground a class stands, where it brings none of its own.
GROUNDS = {
    **dict.fromkeys(["body", "ground", "letterhead", "footer", "footer-text", "link"], "ground"),
    **dict.fromkeys(["hero-figure", "hero-label", "hero-note", "attention"], "hero"),
    "button": "button-cell",
    "alert-cell": "alert-cell",
}


def _rules(css: str) -> dict[str, dict[str, str]]:
    """Declarations of each class; a later one wins."""
    found: dict[str, dict[str, str]] = {}
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)):
        declared = {name: value.replace(" !important", "") for name, value in re.findall(r"([\w-]+): ([^;]+);", body)}
        for name in re.findall(r"\.([\w-]+)", selectors):
            found.setdefault(name, {}).update(declared)
    return found


LIGHT = _rules((LAYOUT / "mail.css").read_text())
DARK = _rules((LAYOUT / "dark.css").read_text())


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("rules", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", [name for name, declared in LIGHT.items() if "color" in declared])
def test_contrast_is_aa(name: str, rules: dict[str, dict[str, str]]) -> None:
    ground = rules[GROUNDS.get(name, "sheet")]["background-color"]
    assert _contrast(rules[name]["color"], ground) >= 4.5


def test_everything_that_has_a_ground_of_its_own_has_one_in_the_dark() -> None:
    own = {name for name, declared in LIGHT.items() if "background-color" in declared}
    assert own == {name for name, declared in DARK.items() if "background-color" in declared}
