"""Every string in every language, with the same placeholders (E7)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

import email_templates
from email_templates.language.translations import languages, translations

PACKAGE = Path(email_templates.__file__).parent
TRANSLATED = [language for language in languages() if language != "en"]
PLACEHOLDER = re.compile(r"%\((\w+)\)s")
#: Languages of which a plural form is for exactly one number, so that the number may be a word.
EXACT_FORMS = {"de": {0}, "fr": set(), "ar": {0, 1, 2}}


@cache
def extracted() -> dict[str, str | tuple[str, ...]]:
    """What templates and documents say, as pybabel finds it."""
    with (PACKAGE / "language" / "locales" / "babel.cfg").open() as mapping:
        method_map, options_map = parse_mapping_cfg(mapping)
    found = extract_from_dir(PACKAGE, method_map, options_map, directory_filter=lambda path: "locales" not in path)
    return {message[0] if isinstance(message, tuple) else message: message for _, _, message, _, _ in found}


@cache
def catalogue(language: str) -> Catalog:
    with (PACKAGE / "language" / "locales" / language / "LC_MESSAGES" / "messages.po").open("rb") as file:
        return read_po(file, locale=language, abort_invalid=True)


def entries(language: str) -> Iterator[Message]:
    return (message for message in catalogue(language) if message.id)


def test_german_french_and_arabic_are_there() -> None:
    assert languages() == ("en", "ar", "de", "fr")


def test_extraction_finds_text_html_layout_and_documents() -> None:
    assert {"Kind regards,", "Summary", "recorded late", "%(first)s–%(last)s days"} <= set(extracted())


@pytest.mark.parametrize("language", TRANSLATED)
def test_nothing_is_missing_left_over_or_fuzzy(language: str) -> None:
    said = {message.id[0] if isinstance(message.id, tuple) else message.id for message in entries(language)}
    assert said == set(extracted())
    assert not [message.id for message in entries(language) if message.fuzzy]
    assert not catalogue(language).obsolete


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_string_is_translated_in_every_plural_form(language: str) -> None:
    for message in entries(language):
        forms = message.string if isinstance(message.string, tuple) else (message.string,)
        assert len(forms) == (catalogue(language).num_plurals if message.pluralizable else 1), message.id
        assert all(form.strip() for form in forms), message.id
        assert all(form == form.strip() for form in forms), message.id


@pytest.mark.parametrize("language", TRANSLATED)
def test_placeholders_agree(language: str) -> None:
    for message in entries(language):
        if not message.pluralizable:
            assert sorted(PLACEHOLDER.findall(message.string)) == sorted(PLACEHOLDER.findall(message.id)), message.id
            assert message.string.count("%") == len(PLACEHOLDER.findall(message.string)), message.id
            continue
        needed = set(PLACEHOLDER.findall(message.id[1]))
        for number, form in enumerate(message.string):
            spare = {"n"} if number in EXACT_FORMS[language] else set()
            assert needed - spare <= set(PLACEHOLDER.findall(form)) <= needed, (message.id, form)


@pytest.mark.parametrize(
    ("n", "form"), [(1, "الحركة الوحيدة"), (2, "الحركتين"), (3, "3 حركات"), (11, "11 حركة"), (100, "100 حركة")]
)
def test_arabic_plurals(n: int, form: str) -> None:
    singular = "This is the statement of %(account)s. The attached PDF shows the one entry of the period."
    plural = "This is the statement of %(account)s. The attached PDF shows all %(n)s entries of the period."
    assert form in translations("ar").ngettext(singular, plural, n) % {"account": "A", "n": n}
