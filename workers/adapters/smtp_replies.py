"""What a refusal of a mail server means: the row's fault, the transport's limit, or ours (E11; RFC 5321 and 3463).

A reply is never quoted beyond its codes: it may name the address, whole or in pieces.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from tasks.failures import Barred, Doubtful, Failure, Permanent, Transient, Unsuitable

#: RFC 3463: class, subject, detail. Anything else at the start of a reply is words, and may be an address.
_STATUS: Final = re.compile(rb"\s*([245])\.(\d{1,3})\.(\d{1,3})(?=\s|$)")
_ADDRESS: Final = re.compile(r"\S*@\S*")
_UNPRINTABLE: Final = re.compile(r"[^ -~]+")
#: RFC 4954: authentication is required, too weak, failed, needs encryption; 454 also stands for a rate or a relay.
_ABOUT_US_CODES: Final = frozenset({454, 530, 534, 535, 538})
_ABOUT_US_STATUS: Final = frozenset({"7.8", "7.9", "7.10", "7.11", "7.13"})
#: Words for which many servers have the code of a refused recipient: who we are, how much we send, where from.
_ABOUT_US_WORDS: Final = re.compile(
    r"\brelay(ing)?\b.*\b(denied|not permitted|not allowed|prohibited)|\b(unable|not (allowed|permitted)) to relay"
    r"|authentication (is )?(required|needed)|must (first )?authenticate|(not|un)authenticated|log ?in first"
    r"|\b(daily|hourly|sending|sender|message) [\w ]{0,30}(quota|limit|rate)|too many (messages|connections|e-?mails)"
    r"|\b(helo|ehlo)\b|\bclient host\b.*\b(blocked|rejected)",
    re.IGNORECASE,
)
_TOO_LARGE: Final = re.compile(
    r"too (large|big)|size (limit )?(exceeds|exceeded)|exceeds [\w ]{0,30}size", re.IGNORECASE
)
_FULL: Final = re.compile(r"mailbox (is )?full|over ?quota|quota exceeded|exceeded storage", re.IGNORECASE)


class Step(StrEnum):
    """What was refused."""

    SENDER = "the sender"
    RECIPIENT = "the recipient"
    DATA = "a message"
    MESSAGE = "the message"


def status(answer: bytes) -> str | None:
    """The enhanced status code of an answer, such as `5.1.1`; None where it begins with something else."""
    found = _STATUS.match(answer)
    return b".".join(found.groups()).decode() if found else None


def detail(code: int, answer: bytes) -> str:
    """The codes of an answer, and none of its words."""
    found = status(answer)
    return f"{code} {found}" if found else str(code)


def quotable(code: int, answer: bytes, recipient: str) -> str:
    """An answer as a row may keep it, for a person to find the message in the server's log: without addresses."""
    words = _ADDRESS.sub("", _UNPRINTABLE.sub(" ", answer.decode("utf-8", "replace")))
    # A server may quote the part before the @ alone.
    words = re.sub(re.escape(recipient.rpartition("@")[0]), "", words, flags=re.IGNORECASE)
    return " ".join([str(code), *words.split()])


def refusal(code: int, answer: bytes, step: Step) -> Failure:
    """The failure that a 4xx or 5xx stands for.

    `Barred`: the server refuses us, so no row is to blame. `Doubtful`: it seems to, in words. `Unsuitable`: another
    transport may take the message. `Transient`: a full mailbox, greylisting and all else that may pass. `Permanent`:
    the recipient or the message.
    """
    said = detail(code, answer)
    words = _ADDRESS.sub("", answer.decode("utf-8", "replace"))
    found = (status(answer) or "").partition(".")[2]
    for_good = code >= 500
    if found == "3.4" or _TOO_LARGE.search(words) or (code == 552 and not found.startswith("2.")):
        return Unsuitable(f"The mail server does not take a message of this size ({said}).")
    # MAIL names the company's own address, the same for every row.
    if code in _ABOUT_US_CODES or found in _ABOUT_US_STATUS or (step is Step.SENDER and for_good):
        return Barred(f"The mail server refuses us, and not the recipient ({said}).")
    if _ABOUT_US_WORDS.search(words):
        return Doubtful(f"The mail server refuses {step} in words about the sender ({said}).", about_us=True)
    if not for_good or found == "2.2" or _FULL.search(words):
        return Transient(f"The mail server does not take {step} now ({said}).")
    return Permanent(f"The mail server refused {step} for good ({said}).")
