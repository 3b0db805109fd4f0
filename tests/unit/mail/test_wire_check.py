"""Nobody's name, company, subject or file name becomes structure of a mail: two parsers read what was meant (E3, E15).

Python's `email` and the Rust parser of `fast-mail-parser` share no code with what writes the mail, nor with each other.
"""

from __future__ import annotations

import email
import json
import shutil
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from email.header import decode_header, make_header
from email.policy import SMTP
from pathlib import Path

import fast_mail_parser
import msgspec
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from email_templates.catalogue import write_context
from email_templates.catalogue.service import ServiceNotice, ServiceNoticeKind
from email_templates.language.plain_text import cut, one_line
from email_templates.mail.rendering import render
from tasks.failures import Permanent
from tasks.mail import headers
from tasks.mail.compose import NAME_LENGTH, ToSend, compose, shown_name
from tasks.mail.wire_check import Meant, Part, require_as_meant, require_lines
from tasks.ports.mail import Letterhead
from tests.support.rendered.messages import COMPANY
from tests.support.rows.mailing import NOW, an_email, set_up
from tests.support.time.deadlines import deadline

deterministic = settings(derandomize=True, database=None, deadline=None, max_examples=80)

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
PERSIAN = "علی\u200cرضا"
BCC = "=?utf-8?q?x=0D=0ABcc=3A_evil=40x=2Eexample?="
END = "=?utf-8?q?x=0A=2E=0D=0AMAIL_FROM=3A=3Cevil=40x=2Eexample=3E?="
HOSTILE = [
    BCC,
    END,
    f"=?utf-8?b?{b64encode(b'a' + bytes([13, 10]) + b'Bcc: evil@x.example').decode()}?=",
    f"=?utf-8?b?{b64encode(END.encode()).decode()}?=",
    "=?", "?=", "=?utf-8?q?", "=?x?q?=0A?=", "=0D=0A", "=?iso-8859-1?q?=FC?=", "\\", '"', ",", ";", ":", "<", ">", "@",
    "(", ")", "[", "]", ".", "..", "'", "%0A", "*", "\r", "\n", "\r\n", "\r\n.\r\n", "\0", "\x0b", "\x0c", "\x1c",
    "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\ufeff", "\u00a0", "\ud800", "\t", " ", "  ",
    FAMILY, PERSIAN, "🇳🇴", "e\u0301", "न\u200dमस्ते", "山田", "ü", "a", "Jane", "Bcc: evil@x.example", "x" * 70, "ü" * 70,
    "<evil@x.example>", "Jane <evil@x.example>, John", "--=_1_", "\r\n--=_1_00000000000000000000000000000007\r\n",
]  # fmt: skip
anything = st.one_of(
    st.lists(st.sampled_from(HOSTILE), max_size=6).map("".join),
    st.lists(st.sampled_from(HOSTILE), max_size=6).map(" ".join),
    st.text(max_size=200),
)
FIELDS = [
    "from",
    "to",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "auto-submitted",
    "x-auto-response-suppress",
    "list-unsubscribe",
    "content-language",
    "mime-version",
    "content-type",
]


def letterhead(company: str) -> Letterhead:
    return Letterhead(
        company=msgspec.structs.replace(COMPANY, name=f"Co {company}"),
        mail_from="billing@tenure.example",
        reply_to="help@tenure.example",
        mail_domain="tenure.example",
    )


def about(topic: str) -> ServiceNotice:
    return ServiceNotice(kind=ServiceNoticeKind.MAINTENANCE, topic=topic, starts_at=NOW, details=(topic,))


def subject_of(topic: str) -> str:
    return render(about(topic), language="en", time_zone="UTC", company=COMPANY, recipient_name="").subject


def composed(name: str, company: str, topic: str, filename: str) -> bytes:
    notice = about(topic)
    mail = an_email(message=notice.name, context=write_context(notice))
    described = {"key": "k", "filename": filename, "content_type": "application/pdf"}
    return compose(ToSend(mail, name, "en", "UTC"), letterhead(company), [(described, b"%PDF\r\n.\r\n\x00")])


@deterministic
@given(anything, anything, anything, anything)
@example(BCC, BCC, BCC, BCC)
@example(END, END, END, END)
@example(FAMILY * 30, PERSIAN * 30, FAMILY * 40, FAMILY * 30)
@example("Last, First, Middle " * 6, "A, B & Co.", "a, b", "a, b.pdf")
@example("", "", "", "")
def test_two_parsers_read_what_was_meant_and_nothing_else(name: str, company: str, topic: str, filename: str) -> None:
    # What PostgreSQL keeps as JSON holds neither NUL nor half a surrogate pair.
    topic = "".join(each for each in topic if each != "\0" and not "\ud800" <= each <= "\udfff")
    raw = composed(name, company, topic, filename)

    assert raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n")
    lines = raw.split(b"\r\n\r\n")[0].split(b"\r\n")
    assert max(len(line) for line in lines if b"mailto:" not in line) <= 78
    # A reader may leave out blanks at the ends, those of other scripts included.
    shown, signed = shown_name(name).strip(), shown_name(f"Co {company}").strip()
    subject = subject_of(topic)
    file = cut(one_line(filename), NAME_LENGTH)

    read = email.message_from_bytes(raw, policy=SMTP)
    assert [each.lower() for each in read.keys()] == FIELDS  # noqa: SIM118 - of the fields, each
    assert str(make_header(decode_header(email.message_from_bytes(raw)["Subject"]))) == subject
    assert [each.addr_spec for each in read["To"].addresses] == ["a@customer.example"]
    assert [part.get_content_type() for part in read.walk()] == [
        "multipart/mixed", "multipart/alternative", "text/plain", "text/html", "application/pdf",
    ]  # fmt: skip
    assert [part.get_content() for part in read.iter_attachments()] == [b"%PDF\r\n.\r\n\x00"]

    other = fast_mail_parser.parse_email(raw, strict=True)
    assert [each.lower() for each in other.headers] == FIELDS
    assert {len(values) for values in other.headers.values()} == {1}
    assert other.subject == subject
    assert [(each.display_name or "", each.address) for each in other.to] == [(shown, "a@customer.example")]
    assert other.from_ is not None
    assert (other.from_.display_name or "", other.from_.address) == (signed, "billing@tenure.example")
    assert (list(other.cc), list(other.bcc)) == ([], [])
    assert (len(other.text_plain), len(other.text_html)) == (1, 1)
    assert [(each.mimetype, each.filename, each.content) for each in other.attachments] == [
        ("application/pdf", file, b"%PDF\r\n.\r\n\x00")
    ]


@pytest.mark.parametrize("text", [FAMILY, PERSIAN, "🇳🇴", "न\u200dमस्ते"])
def test_joiners_survive_in_names_and_subjects(text: str) -> None:
    other = fast_mail_parser.parse_email(composed(text, text, text, text), strict=True)
    assert other.to[0].display_name == text
    assert text in other.subject
    assert other.attachments[0].filename == text


@deterministic
@given(st.lists(st.sampled_from([FAMILY, PERSIAN, "🇳🇴", "e\u0301", "한", "a", " "]), max_size=60), st.integers(1, 60))
@example([FAMILY] * 3, 20)
@example(["🇳🇴"] * 10, 8)
def test_a_text_is_cut_between_graphemes(pieces: list[str], length: int) -> None:
    text = "".join(pieces)
    short = cut(text, length)
    assert len(short) <= length
    if short != text:
        whole, kept = regex.findall(r"\X", text), regex.findall(r"\X", short.removesuffix("…"))
        assert kept == whole[: len(kept)] or length <= len(whole[0])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Jane Doe", "Jane Doe"),
        ("Dr. J. R. Müller", "Dr. J. R. Müller"),
        ("Win at https://evil.example/x now", "Win at now"),
        ("Call evil.example", "Call"),
        ("www.evil.example", "…"),
        ("me@evil.example", "…"),
        ("evil．example", "…"),
        ("evil。example", "…"),
        ("Buy " * 40, "Buy Buy Buy Buy Buy Buy Buy Buy Buy Buy…"),
        ("", ""),
    ],
)
def test_a_stranger_cannot_write_mail_to_an_address_that_nobody_confirmed(name: str, shown: str) -> None:
    mail = an_email(context=write_context(set_up(account_name=name or "-")))
    read = fast_mail_parser.parse_email(compose(ToSend(mail, name, "en", "UTC"), letterhead(""), []), strict=True)
    assert (read.to[0].display_name or "") == shown
    assert "evil" not in f"{read.subject} {read.text_plain} {read.text_html}"
    assert read.text_plain[0].count("Buy") <= 30


GOOD = b"To: Jane <a@b.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
MEANT = Meant(
    [("To", "Jane <a@b.example>"), ("MIME-Version", "1.0"), ("Content-Type", "text/plain")],
    [Part("text/plain", None, b"hello\r\n")],
)


def test_the_check_lets_a_mail_pass_that_reads_as_it_was_meant() -> None:
    require_as_meant(GOOD, MEANT)


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        (b"MIME", b"Bcc: evil@x.example\r\nMIME", "its headers"),
        (b"Jane <", b'"Last" <evil@x.example>, Jane <', "its header To"),
        (b"Jane <", b"=?utf-8?q?Jane=2C_John?= <", "its header To"),
        (b"hello", b"goodbye", "the content of part 1"),
        (b"text/plain", b"text/html", "its header Content-Type"),
        (b"\r\n\r\nhello", b"\r\n\r\n\r\nhello", "the content of part 1"),
    ],
)
def test_the_check_refuses_a_mail_that_reads_differently(before: bytes, after: bytes, differs: str) -> None:
    with pytest.raises(Permanent, match=f"not read as it was meant .{differs}"):
        require_as_meant(GOOD.replace(before, after, 1), MEANT)


@pytest.mark.parametrize("bad", [b"a\rb\r\n", b"a\nb\r\n", b"a\n.\r\n", b"a\0b\r\n", b"\r\r\n", b"\n\r\n"])
def test_half_a_line_break_is_refused(bad: bytes) -> None:
    with pytest.raises(Permanent, match="half a CRLF"):
        require_lines(GOOD + bad)


def test_a_line_too_long_for_a_server_is_refused() -> None:
    require_lines(b"x" * 998 + b"\r\n")
    with pytest.raises(Permanent, match="more than 998 octets"):
        require_lines(b"x" * 999 + b"\r\n")


@pytest.mark.parametrize("media_type", ["text", "a/b\r\nX: y", "multipart/mixed", "message/rfc822", "a/b; c=d", ""])
def test_a_media_type_that_is_more_than_one_is_refused(media_type: str) -> None:
    described = {"key": "k", "filename": "f", "content_type": media_type}
    item = ToSend(an_email(), "Jane", "en", "UTC")
    with pytest.raises(Permanent, match="media type"):
        compose(item, letterhead("Co"), [(described, b"x")])


def test_an_address_that_looks_like_an_encoded_word_is_refused() -> None:
    item = ToSend(an_email(to_address="=?utf-8?q?x=0D=0ABcc?=@customer.example"), "Jane", "en", "UTC")
    with pytest.raises(Permanent, match='"=\\?"'):
        compose(item, letterhead("Co"), [])
    with pytest.raises(Permanent):
        compose(item, replace(letterhead("Co"), reply_to="=?x?q?y?=@tenure.example"), [])


#: Run by another Python: the fields as it writes them, in base64.
WRITE = """
import base64, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("mail_headers", sys.argv[1])
made = importlib.util.module_from_spec(spec)
sys.modules["mail_headers"] = made
spec.loader.exec_module(made)
for text in json.load(sys.stdin):
    fields = made.text_field("Subject", text) + made.mailbox_field("To", text, "a@b.example")
    print(base64.b64encode(fields + made.attachment_field(text)).decode())
"""


def interpreters() -> list[str]:
    """Other Pythons of this machine, 3.11 or later, those of pyenv included."""
    found = {shutil.which(f"python3.{minor}") for minor in range(11, 16)}
    found |= {str(each) for each in Path.home().glob(".pyenv/versions/3.1[1-9]*/bin/python3")}
    return sorted(each for each in found if each)


def test_every_python_that_is_installed_writes_the_same_fields() -> None:
    texts = [text for text in HOSTILE if "\ud800" not in text] + [" ".join(HOSTILE[:9]), "x " * 90, ""]
    written = {}
    for python in {sys.executable, *interpreters()}:
        ran = subprocess.run(
            [python, "-c", WRITE, headers.__file__],
            input=json.dumps(texts), capture_output=True, text=True, timeout=deadline(60), check=False,
        )  # fmt: skip
        # A shim of a version manager may name a version that is not installed.
        if ran.returncode == 0 or python == sys.executable:
            written[python] = ran.stdout
    assert written[sys.executable]
    assert set(written.values()) == {written[sys.executable]}
