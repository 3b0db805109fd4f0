"""Canonical JSON: the rules and examples of RFC 8785, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.crypto import canonical_json

#: No surrogates alone: they are refused.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
WHOLE = st.integers(-canonical_json.LARGEST, canonical_json.LARGEST)
VALUES = st.recursive(
    st.none() | st.booleans() | WHOLE | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)
)


def test_members_are_sorted_by_utf_16_as_in_the_rfc() -> None:
    """The example of RFC 8785, section 3.2.3."""
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    assert [*json.loads(canonical_json.encode(value))] == [
        "\r",
        "1",
        "\u0080",
        "\u00f6",
        "\u20ac",
        "\U0001f600",
        "\ufb33",
    ]


def test_strings_are_written_as_in_the_rfc() -> None:
    """The example of RFC 8785, section 3.2.2, without its fractions."""
    value = {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/", "literals": [None, True, False]}
    written = '{"literals":[null,true,false],"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical_json.encode(value) == written.encode()
    assert canonical_json.encode("\b\t\n\f\r\x00\x1f\x7f\u2028") == '"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\u2028"'.encode()


@given(VALUES)
def test_what_was_written_is_read_and_written_the_same(value: object) -> None:
    written = canonical_json.encode(value)
    assert canonical_json.decode(written) == value
    assert canonical_json.encode(canonical_json.decode(written)) == written
    assert canonical_json.encode(json.loads(json.dumps(value, indent=3))) == written


@pytest.mark.parametrize("value", [1.5, 1.0, float("nan"), 2**53, -(2**53), {1: 2}, {"a": object()}, "\ud800", b"x"])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"number|text|form"):
        canonical_json.encode(value)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a":1,"a":1}', '{"a":{"b":1,"b":2}}', "1.0", "1e3", "NaN", "-Infinity", "9007199254740992",
             "-0", "9" * 10_000, "[" * 100_000, b"\xff"]
)  # fmt: skip
def test_what_readers_would_not_agree_on_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it is not JSON|a name comes twice|a number|the number)"):
        canonical_json.decode(text)
