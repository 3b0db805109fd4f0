"""The chain of certificates as a file, and whether it is as it was issued. Needs no server and no settings (T25).

    {"format": "tenure-certificates/1", "whole": true,
     "certificates": [{"certificate": {...}, "sha256": "...", "signature": "..."}, ...],
     "head": {"statement": {"certificates": 19, "sha256": "...", "stated_at": "...", ...}, "signature": "..."}}

What is signed are the canonical bytes (`canonical.py`) of `certificate` and of `statement`; hashes and signatures are
in hexadecimal. Each certificate has the SHA-256 of the one before as `previous`, so nothing can be taken out, put in or
moved. That nothing was cut off the end is said by the head, which is signed, too; an older file with its older head is
found out by whoever knows a later number and its hash, as every customer does who was sent one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tasks.crypto import canonical_json
from tasks.crypto.signing import PublicKey, SigningKey

FORMAT: Final = "tenure-certificates/1"
CERTIFICATE_FORMAT: Final = "tenure-certificate/1"
HEAD_FORMAT: Final = "tenure-certificates-head/1"
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


@dataclass(frozen=True, slots=True)
class Signed:
    """One certificate: what it says, in canonical JSON, and its signature."""

    body: bytes
    signature: bytes
    content: dict[str, Any]

    @classmethod
    def of(cls, body: bytes, signature: bytes) -> Signed:
        """Raises ValueError for a body that is no JSON object."""
        content = canonical_json.decode(body)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        return cls(body, signature, content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def number(self) -> int:
        return int(self.content["number"])


@dataclass(frozen=True, slots=True)
class Head:
    """What must be the last certificate: its number, and the hash of it in hexadecimal."""

    number: int
    sha256: str

    @classmethod
    def parse(cls, written: str) -> Head:
        """`19:4c1d…`. Raises ValueError, with a sentence."""
        number, _, sha256 = written.partition(":")
        if not number.isdecimal() or len(sha256) != 64 or not _HEX.fullmatch(sha256.lower()):
            raise ValueError("a head is a number, a colon and 64 hexadecimal digits, such as 19:4c1d…")
        return cls(int(number), sha256.lower())


@dataclass
class Examined:
    """What was found in a file; the certificates are to be believed only where there are no problems."""

    problems: list[str] = field(default_factory=list)
    certificates: list[Signed] = field(default_factory=list)
    #: Whether the file has all of them up to `stated_at`.
    whole: bool = False
    stated_at: str | None = None


def document(certificates: Sequence[Signed], *, whole: bool, signer: SigningKey | None = None) -> bytes:
    """The file. A whole one has a head, which `signer` signs."""
    head = None
    if whole and certificates and signer:
        statement = {
            "format": HEAD_FORMAT,
            "certificates": certificates[-1].number,
            "sha256": certificates[-1].sha256,
            "stated_at": instant(datetime.now(UTC)),
            "key": signer.public.name,
        }
        head = {"statement": statement, "signature": signer.sign(canonical_json.encode(statement)).hex()}
    made = {
        "format": FORMAT,
        "whole": whole,
        "certificates": [
            {"certificate": each.content, "sha256": each.sha256, "signature": each.signature.hex()}
            for each in certificates
        ],
        "head": head,
    }
    return canonical_json.encode(made) + b"\n"


def instant(moment: datetime) -> str:
    """As certificates write instants: ISO 8601 in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def examine(content: bytes, trusted: Sequence[PublicKey], *, head: Head | None = None) -> Examined:
    """Check a file against the keys that one trusts. `head` is what one knows of the chain from elsewhere."""
    found, statement = Examined(), dict[str, Any]()
    try:
        _read(content, found, statement)
    except ValueError as error:
        found.problems.append(f"This is no file of certificates as Tenure writes them: {error}.")
        return found
    found.problems += _examined(found, trusted, statement)
    if head is not None:
        found.problems += _beside(found.certificates, head)
    return found


def _read(content: bytes, found: Examined, statement: dict[str, Any]) -> None:
    """What the file says, in its form. Raises ValueError."""
    whole = _fields(canonical_json.decode(content), "format", "whole", "certificates", "head")
    if whole["format"] != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    if not isinstance(whole["whole"], bool) or not isinstance(whole["certificates"], list):
        raise ValueError("it has no list of certificates")
    if not whole["certificates"]:
        raise ValueError("it has no certificate")
    found.whole = whole["whole"]
    for each in whole["certificates"]:
        entry = _fields(each, "certificate", "sha256", "signature")
        signed = Signed.of(canonical_json.encode(entry["certificate"]), _bytes(entry["signature"]))
        said = signed.content
        if (
            said.get("format") != CERTIFICATE_FORMAT
            or type(said.get("number")) is not int
            or not isinstance(said.get("key"), str)
            or not isinstance(said.get("kind"), str)
            or not isinstance(said.get("previous", 0), str | None)
        ):
            raise ValueError(f"an entry in it is no certificate of the format {CERTIFICATE_FORMAT}")
        if said["kind"] == "key":
            _bytes(said.get("public_key"))
        if entry["sha256"] != signed.sha256:
            found.problems.append(f"{_called(signed)} was changed: its SHA-256 is another one.")
        found.certificates.append(signed)
    if found.whole:
        end = _fields(whole["head"], "statement", "signature")
        statement |= _fields(end["statement"], "format", "certificates", "sha256", "stated_at", "key")
        statement["signature"] = _bytes(end["signature"])
        found.stated_at = str(statement["stated_at"])
    elif whole["head"] is not None:
        raise ValueError("it is an extract and has a head")


def _examined(found: Examined, trusted: Sequence[PublicKey], statement: dict[str, Any]) -> Iterator[str]:
    trust = _Trust(found.certificates, trusted)
    before: Signed | None = None
    for each in found.certificates:
        yield from _linked(before, each, whole=found.whole)
        signer = str(each.content["key"])
        key = trust.known.get(signer)
        if key is None:
            yield f"{_called(each)} is signed by the key {signer}, which the file does not have: give it by --key."
        elif not key.signed(each.body, each.signature):
            yield f"{_called(each)} was changed, or is forged: its signature is not that of the key {signer}."
        before = each
    for each in found.certificates:
        if each.number not in trust.authentic:
            yield (
                f"{_called(each)} is signed by the key {each.content['key']}, which is none of those that you gave, "
                "nor did one of them hand over to it."
            )
            break
    if found.whole:
        yield from _headed(found, statement, trust.known.get(str(statement["key"])), trust.believed)


class _Trust:
    """Which keys and certificates are to be believed by whoever trusts some keys, if all hashes and signatures fit."""

    def __init__(self, certificates: Sequence[Signed], trusted: Sequence[PublicKey]) -> None:
        #: By their names: these, and all that the certificates introduce.
        self.known = {key.name: key for key in trusted}
        #: The names of those that are trusted, or that one of them handed over to.
        self.believed = set(self.known)
        #: The numbers of certificates.
        self.authentic: set[int] = set()
        for each in certificates:
            signer = str(each.content["key"])
            if each.content["kind"] == "key":
                introduced = PublicKey(bytes.fromhex(each.content["public_key"]))
                self.known.setdefault(introduced.name, introduced)
                if signer in self.believed:
                    self.believed.add(introduced.name)
            if signer in self.believed:
                self.authentic.add(each.number)
        # What comes before a certificate that is believed is believed, too: its hash is in that one.
        for this, after in zip(reversed(certificates[:-1]), reversed(certificates[1:]), strict=True):
            if after.number in self.authentic and after.content["previous"] == this.sha256:
                self.authentic.add(this.number)


def keys_of(certificates: Sequence[Signed], trusted: Sequence[PublicKey]) -> dict[str, PublicKey]:
    """By their names, the keys by which what was signed in the time of these certificates can be checked.

    They are to be believed only where `examine` finds no problem.
    """
    trust = _Trust(certificates, trusted)
    introduced = [
        PublicKey(bytes.fromhex(each.content["public_key"]))
        for each in certificates
        if each.content["kind"] == "key" and each.number in trust.authentic
    ]
    return {key.name: key for key in [*trusted, *introduced]}


def _linked(before: Signed | None, each: Signed, *, whole: bool) -> Iterator[str]:
    number, previous = each.number, each.content["previous"]
    if before is None:
        if (number == 1) != (previous is None):
            yield f"{_called(each)} says of the one before it what cannot be."
        if whole and number != 1:
            yield f"The file begins with number {number}: {number - 1} certificates before it are missing."
    elif number != before.number + 1:
        if whole or number <= before.number:
            yield f"After number {before.number} comes number {number}: certificates are missing, moved or put in."
    elif previous != before.sha256:
        yield f"{_called(each)} does not follow {_called(before)}: one of them was changed or exchanged."


def _headed(found: Examined, statement: dict[str, Any], key: PublicKey | None, believed: set[str]) -> Iterator[str]:
    signature = statement.pop("signature")
    last = found.certificates[-1]
    if key is None or key.name not in believed or not key.signed(canonical_json.encode(statement), signature):
        yield "What the file says about its own end is not signed by a key that you gave, or by its successor."
    elif statement["format"] != HEAD_FORMAT:
        yield f"What the file says about its own end is not of the format {HEAD_FORMAT}."
    elif (statement["certificates"], statement["sha256"]) != (last.number, last.sha256):
        yield (
            f"There were {statement['certificates']} certificates when the file was written, and {last.number} are in "
            "it: its end was cut off or exchanged."
        )


def _beside(certificates: Sequence[Signed], head: Head) -> Iterator[str]:
    """Compared with what is known of the chain from elsewhere."""
    same = [each for each in certificates if each.number == head.number]
    if not same:
        yield f"Number {head.number} is not in it: certificates are missing, or the file is older than that one."
    elif same[0].sha256 != head.sha256:
        yield f"Number {head.number} is another certificate than the one that you know."


def _fields(value: Any, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"there should be {', '.join(names)}, and nothing else")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError("a hash, key or signature in it is not in hexadecimal digits")
    return bytes.fromhex(value)


def _called(signed: Signed) -> str:
    return f"Certificate {signed.number}"
