"""A file of certificates is as it was issued, or it is not: found out without any server (T25)."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.certificates.chain import CERTIFICATE_FORMAT, Head, Signed, document, examine
from tasks.crypto import canonical_json
from tasks.crypto.signing import PublicKey, SigningKey
from tests.support.time.deadlines import deadline

FIRST, SECOND, STRANGER = (SigningKey(bytes([n]) * 32) for n in (1, 2, 3))


def add(chain: list[Signed], key: SigningKey, **facts: Any) -> None:
    number = len(chain) + 1
    body = canonical_json.encode(
        {
            "format": CERTIFICATE_FORMAT,
            "number": number,
            "name": f"PC-2026-{number:05}",
            "kind": "purge",
            "issuer": "Köhler & Söhne",
            "issued_at": "2026-12-17T02:40:00Z",
            "previous": chain[-1].sha256 if chain else None,
            "key": key.public.name,
            **facts,
        }
    )
    chain.append(Signed.of(body, key.sign(body)))


def introduce(chain: list[Signed], key: SigningKey, *, by: SigningKey) -> None:
    add(chain, by, kind="key", public_key=key.public.raw.hex(), introduces=key.public.name)


def a_chain() -> list[Signed]:
    """Two certificates by one key, which hands over to another one, and two by that."""
    chain: list[Signed] = []
    introduce(chain, FIRST, by=FIRST)
    add(chain, FIRST, stores=[{"store": "tenure.contacts", "erased": 3}])
    add(chain, FIRST)
    introduce(chain, SECOND, by=FIRST)
    add(chain, SECOND)
    add(chain, SECOND)
    return chain


CHAIN = a_chain()
WHOLE = document(CHAIN, whole=True, signer=SECOND)


def problems(content: bytes, *trusted: SigningKey, head: Head | None = None) -> list[str]:
    return examine(content, [each.public for each in trusted], head=head).problems


@pytest.mark.parametrize("trusted", [FIRST, SECOND])
def test_a_whole_chain_is_believed_by_whoever_has_one_of_its_keys(trusted: SigningKey) -> None:
    """The first key hands over to the second; what is before the second is held by its hashes."""
    assert problems(WHOLE, trusted) == []
    assert problems(WHOLE, trusted, head=Head(3, CHAIN[2].sha256)) == []


def test_a_key_that_nobody_handed_over_to_is_not_believed() -> None:
    (said,) = problems(WHOLE, STRANGER)[:1]
    assert said.startswith("Certificate 1 is signed by the key")
    chain = CHAIN[:3]
    introduce(chain, STRANGER, by=STRANGER)
    add(chain, STRANGER)
    content = document(chain, whole=True, signer=STRANGER)
    assert any("Certificate 4 is signed by the key" in each for each in problems(content, FIRST))
    assert problems(content, FIRST, STRANGER) == []


def test_an_extract_is_checked_without_the_rest() -> None:
    extract = document([CHAIN[0], CHAIN[3], CHAIN[5]], whole=False)
    assert problems(extract, FIRST) == []
    assert problems(document([CHAIN[5]], whole=False), SECOND) == []
    assert problems(document([CHAIN[5]], whole=False), FIRST) != []


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    read = json.loads(WHOLE)
    change(read)
    return json.dumps(read).encode()


def cut(read: dict[str, Any], to: int, sha256: str | None = None) -> None:
    del read["certificates"][to:]
    if sha256:
        read["head"]["statement"] |= {"certificates": to, "sha256": sha256}


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "cut off at its end": lambda read: cut(read, 5),
    "cut off, and the head with it": lambda read: cut(read, 5, CHAIN[4].sha256),
    "without its beginning": lambda read: read["certificates"].pop(0),
    "without one in the middle": lambda read: read["certificates"].pop(2),
    "with one twice": lambda read: read["certificates"].insert(2, read["certificates"][1]),
    "in another order": lambda read: read["certificates"].reverse(),
    "with another count": lambda read: read["certificates"][1]["certificate"]["stores"][0].update(erased=4),
    "with a signature of another": lambda read: read["certificates"][1].update(
        signature=read["certificates"][2]["signature"]
    ),
    "with another hash beside it": lambda read: read["certificates"][1].update(
        sha256=read["certificates"][2]["sha256"]
    ),
    "with something more": lambda read: read["certificates"][1].update(remark="all is well"),
    "as an extract with a head": lambda read: read.update(whole=False),
    "whole and without a head": lambda read: read.update(head=None),
    "with no certificate": lambda read: read["certificates"].clear(),
    "of another format": lambda read: read.update(format="tenure-certificates/2"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_was_changed_is_found_out(change: Callable[[dict[str, Any]], None]) -> None:
    said = problems(changed(change), FIRST, SECOND)
    assert said
    assert all(each.endswith(".") for each in said)


def test_an_older_file_is_found_out_by_who_knows_a_later_certificate() -> None:
    older = document(CHAIN[:5], whole=True, signer=SECOND)
    assert problems(older, FIRST) == []
    assert problems(older, FIRST, head=Head.parse(f"6:{CHAIN[5].sha256}"))
    assert problems(older, FIRST, head=Head(5, CHAIN[4].sha256)) == []
    assert problems(older, FIRST, head=Head(5, CHAIN[3].sha256))


def forged(chain: list[Signed]) -> bytes:
    """Somebody takes one out and signs the rest anew with a key of his own."""
    made: list[Signed] = []
    introduce(made, STRANGER, by=STRANGER)
    for each in chain[2:3]:
        facts = {name: value for name, value in each.content.items() if name not in {"number", "previous", "key"}}
        add(made, STRANGER, **facts)
    return document(made, whole=True, signer=STRANGER)


def test_a_chain_that_was_signed_anew_is_not_believed() -> None:
    assert problems(forged(CHAIN), STRANGER) == []
    assert problems(forged(CHAIN), FIRST, SECOND)


def content_of(content: bytes) -> Any:
    return canonical_json.decode(content)


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=0, max_size=3), st.integers(0, 3))
@settings(max_examples=600)
def test_no_byte_can_be_changed(at: int, put: bytes, gone: int) -> None:
    """Either it says the same, written otherwise, or it is found out."""
    tampered = WHOLE[:at] + put + WHOLE[at + gone :]
    found = examine(tampered, [FIRST.public])
    assert found.problems or content_of(tampered) == content_of(WHOLE)


@given(st.data())
@settings(max_examples=200)
def test_certificates_cannot_be_left_out_moved_or_repeated(data: st.DataObject) -> None:
    read = json.loads(WHOLE)
    order = data.draw(st.lists(st.integers(0, len(CHAIN) - 1), max_size=len(CHAIN) + 2))
    read["certificates"] = [read["certificates"][index] for index in order]
    if data.draw(st.booleans()) and order:
        read["head"]["statement"] |= {"certificates": len(order), "sha256": CHAIN[order[-1]].sha256}
    said = problems(json.dumps(read).encode(), FIRST, SECOND)
    assert bool(said) == (order != [*range(len(CHAIN))])


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_anything_else_is_told_in_a_sentence(content: bytes) -> None:
    (said,) = problems(content, FIRST)
    assert said.startswith("This is no file of certificates")


def test_a_key_is_read_in_either_way() -> None:
    public = FIRST.public
    assert PublicKey.parse(public.raw.hex()) == PublicKey.parse(public.pem) == PublicKey.parse(f" {public.raw.hex()}\n")
    for wrong in ("", "abcd", "xyz", public.pem[:40], "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"):
        with pytest.raises(ValueError, match=r"public Ed25519 key"):
            PublicKey.parse(wrong)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="another implementation is asked")
def test_another_implementation_finds_the_signatures_valid(tmp_path: Path) -> None:
    for name, content in [("key.pem", FIRST.public.pem.encode()), ("body", CHAIN[1].body), ("sig", CHAIN[1].signature)]:
        (tmp_path / name).write_bytes(content)
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "key.pem",
        "-rawin",
        "-in",
        "body",
        "-sigfile",
        "sig",
    ]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=deadline(30)).returncode == 0
    (tmp_path / "body").write_bytes(CHAIN[1].body + b" ")
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=deadline(30)).returncode != 0
