"""The age format as we write and read it: the same files as another implementation's, and nothing that was changed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.crypto import bech32
from tasks.crypto.age import CHUNK, TAG, Identity, Sealed, SealedReader, SealError, seal, sealed_size
from tasks.crypto.wrapping import wrapping_keys

#: A busy machine is no reason to fail.
lock_timeout = settings(deadline=None, max_examples=40)
IDENTITY = Identity.generate()
THEIRS = pyrage.x25519.Identity.from_str(IDENTITY.written())
#: Around the borders of chunks, where a last one may be full, empty or alone.
SIZES = st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 17])


def sealed_file(content: bytes, piece: int = 10_000) -> bytes:
    return b"".join(seal((content[at : at + piece] for at in range(0, len(content), piece)), IDENTITY.recipient))


def opened(file: bytes, identity: Identity = IDENTITY) -> Sealed:
    def read(start: int, stop: int) -> Iterable[bytes]:
        return [file[start : start + 7], file[start + 7 : stop]] if stop - start > 7 else [file[start:stop]]

    return Sealed(read, len(file), identity)


@lock_timeout
@given(SIZES, st.sampled_from([999, 10_000, CHUNK, CHUNK + 1, 3 * CHUNK]))
def test_another_implementation_opens_what_we_sealed(size: int, piece: int) -> None:
    content = os.urandom(size)
    assert pyrage.decrypt(sealed_file(content, piece), [THEIRS]) == content


@lock_timeout
@given(SIZES)
def test_we_open_what_another_implementation_sealed(size: int) -> None:
    content = os.urandom(size)
    other = pyrage.x25519.Identity.generate().to_public()
    file = opened(pyrage.encrypt(content, [other, THEIRS.to_public()]))
    assert b"".join(file.content()) == content
    assert file.content_size == size


@lock_timeout
@given(st.integers(0, 3 * CHUNK), st.integers(0, 3 * CHUNK))
def test_any_part_is_read_without_what_is_before_it(start: int, stop: int) -> None:
    content = b"".join(number.to_bytes(4, "big") for number in range(CHUNK * 5 // 8))
    assert b"".join(opened(sealed_file(content)).content(start, stop)) == content[start:stop]


def test_keys_are_written_as_age_writes_them() -> None:
    assert str(IDENTITY.recipient) == str(THEIRS.to_public())
    assert Identity.parse(f"# created: today\n{THEIRS}\n").secret == IDENTITY.secret
    assert IDENTITY.written() not in repr(IDENTITY)
    for wrong in ("", "AGE-SECRET-KEY-1", str(THEIRS)[:-1] + "!", str(THEIRS.to_public()), f"{THEIRS}\n{THEIRS}"):
        with pytest.raises(SealError, match="AGE-SECRET-KEY-1"):
            Identity.parse(wrong)


@lock_timeout
@given(st.binary(max_size=40))
def test_bech32_is_read_as_it_was_written(value: bytes) -> None:
    written = bech32.encode("age", value)
    assert bech32.decode(written) == bech32.decode(written.upper()) == ("age", value)
    changed = written[:-1] + ("q" if written[-1] != "q" else "p")
    with pytest.raises(ValueError, match="checksum"):
        bech32.decode(changed)


@pytest.mark.parametrize("size", [0, 5, CHUNK, 2 * CHUNK + 5])
def test_what_was_cut_off_is_found(size: int) -> None:
    file = sealed_file(os.urandom(size))
    borders = [len(file) - TAG - size % CHUNK, len(file) - size % CHUNK, len(file) - 1, len(file) - TAG, 183, 150, 10]
    for border in borders:
        if border < len(file):
            with pytest.raises(SealError):
                opened(file[:border])
    with pytest.raises(SealError):
        opened(file + b"\0")


@lock_timeout
@given(st.data())
def test_every_changed_byte_is_found(data: st.DataObject) -> None:
    file = bytearray(sealed_file(bytes(2 * CHUNK + 5)))
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealError):
        b"".join(opened(bytes(file)).content())


def test_chunks_that_changed_places_are_found() -> None:
    file = sealed_file(os.urandom(3 * CHUNK))
    start, length = len(file) - 3 * (CHUNK + TAG), CHUNK + TAG
    first, second = file[start : start + length], file[start + length : start + 2 * length]
    swapped = opened(file[:start] + second + first + file[start + 2 * length :])
    with pytest.raises(SealError, match="changed near byte 0"):
        b"".join(swapped.content())


def test_the_wrong_key_says_so() -> None:
    with pytest.raises(SealError, match="does not open this file"):
        opened(sealed_file(b"secret"), Identity.generate())
    with pytest.raises(SealError, match="is not sealed"):
        opened(b"PK\x03\x04" + bytes(300))


def test_zipfile_reads_through_it() -> None:
    class Buffer:
        """A sink that cannot be sought."""

        def __init__(self) -> None:
            self.pieces: list[bytes] = []

        def write(self, piece: bytes) -> int:
            self.pieces.append(bytes(piece))
            return len(piece)

        def flush(self) -> None:
            pass

    sink = Buffer()
    with zipfile.ZipFile(sink, "w") as archive:  # type: ignore[arg-type]
        archive.writestr("a.txt", b"a" * 3 * CHUNK)
    read = zipfile.ZipFile(SealedReader(opened(sealed_file(b"".join(sink.pieces)))))  # type: ignore[arg-type]
    assert read.read("a.txt") == b"a" * 3 * CHUNK


def test_wrapping_keys_are_32_bytes_each_and_are_not_quoted() -> None:
    first, second = "A" * 43 + "=", "B" * 43 + "="
    assert len(wrapping_keys(f"{first}|{second}")) == 2
    for wrong in ("hunter2", "AAAA", f"{first}|hunter2", "Ü" * 32):
        with pytest.raises(ValueError, match="openssl rand -base64 32") as caught:
            wrapping_keys(wrong)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_how_large_a_sealed_file_is_can_be_told_before(size: int) -> None:
    made = b"".join(seal([bytes(size)], Identity.generate().recipient))
    assert len(made) == sealed_size(size)
