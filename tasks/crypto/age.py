"""The age format, version 1 (C2SP, `age-encryption.org/v1`), with X25519 recipients: written and read as a stream.

A file has a key of its own, wrapped for whoever may open it; its content is ChaCha20-Poly1305 in chunks of 64 KiB whose
nonces count them and mark the last (STREAM), so that a chunk that is changed, moved, repeated or missing is found, and
any part can be read without what is before it. `age -d -i IDENTITY FILE` and `rage` open the same files.

Whoever writes needs the recipient only, which is no secret. The primitives are those of `cryptography`.
"""

from __future__ import annotations

import base64
import hmac
import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tasks.crypto import bech32

CHUNK: Final = 64 * 1024
TAG: Final = 16
SEALED_CHUNK: Final = CHUNK + TAG
VERSION: Final = b"age-encryption.org/v1"
_INTRODUCTION: Final = VERSION + b"\n"
_X25519: Final = b"age-encryption.org/v1/X25519"
_FILE_KEY: Final = 16
_NONCE: Final = 16
#: Of a header that we write, for one recipient; one for hundreds of them still fits into the longest.
_HEADER: Final = 168
_LONGEST_HEADER: Final = 64 * 1024

#: Gives the bytes of a sealed file from `start` up to but without `stop`, in pieces of any size.
ReadRange = Callable[[int, int], Iterable[bytes]]


class SealError(Exception):
    """A sealed file that cannot be opened; the text is a sentence without anything that the file holds."""


class Recipient:
    """Who may open: the public half of an identity."""

    def __init__(self, public: bytes) -> None:
        self.public = public

    def __str__(self) -> str:
        """As `age -r` takes it: `age1…`."""
        return bech32.encode("age", self.public)


class Identity:
    """The secret that opens what was sealed for its recipient. It is never logged: `repr` says nothing of it."""

    def __init__(self, secret: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(secret)

    @classmethod
    def generate(cls) -> Identity:
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Identity:
        """An identity file as `age-keygen` writes it, comments and all; raises SealError."""
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        try:
            (line,) = lines
            prefix, secret = bech32.decode(line)
        except ValueError:
            prefix, secret = "", b""
        if prefix != "age-secret-key-" or len(secret) != 32:
            raise SealError("The key is no age identity: it must be one line that begins with AGE-SECRET-KEY-1.")
        return cls(secret)

    @property
    def secret(self) -> bytes:
        return self._key.private_bytes_raw()

    def written(self) -> str:
        """As `age -i` reads it: `AGE-SECRET-KEY-1…`."""
        return bech32.encode("age-secret-key-", self.secret).upper()

    @cached_property
    def recipient(self) -> Recipient:
        return Recipient(self._key.public_key().public_bytes_raw())

    def exchange(self, share: bytes) -> bytes:
        return self._key.exchange(X25519PublicKey.from_public_bytes(share))


def seal(content: Iterable[bytes], recipient: Recipient) -> Iterator[bytes]:
    """The sealed file, in pieces, of content in pieces of any size. Memory is flat."""
    file_key = os.urandom(_FILE_KEY)
    nonce = os.urandom(_NONCE)
    yield _header(file_key, recipient) + nonce
    cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
    held = bytearray()
    number = 0
    for piece in content:
        held += piece
        # The last chunk is marked, and is empty only where all is: a full one is held until another byte comes.
        full = max(0, len(held) - 1) // CHUNK
        if full:
            with memoryview(held) as view:
                sealed = [
                    cipher.encrypt(_counted(number + each), view[each * CHUNK : (each + 1) * CHUNK], None)
                    for each in range(full)
                ]
            del held[: full * CHUNK]
            number += full
            yield b"".join(sealed)
    yield cipher.encrypt(_counted(number, last=True), bytes(held), None)


def sealed_size(content_size: int) -> int:
    """How many bytes `seal` makes of so many."""
    return _HEADER + _NONCE + content_size + max(1, -(-content_size // CHUNK)) * TAG


class Sealed:
    """A sealed file of `size` bytes that `read` gives in parts. `content_size` is that of what is in it.

    To open it is to prove that the identity is the right one and that the file has its end. Raises SealError.
    """

    def __init__(self, read: ReadRange, size: int, identity: Identity) -> None:
        self._read = read
        self._size = size
        head = b"".join(read(0, min(size, _LONGEST_HEADER)))
        file_key, self._start = _opened(head, identity)
        nonce = head[self._start - _NONCE : self._start]
        self._cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
        payload = size - self._start
        if payload < TAG:
            raise SealError("The file is cut off: it ends before its content begins.")
        self._chunks = -(-payload // SEALED_CHUNK)
        if payload - (self._chunks - 1) * SEALED_CHUNK < TAG + (self._chunks > 1):
            raise SealError("The file is cut off in the middle of a chunk.")
        self.content_size = payload - self._chunks * TAG
        self._unsealed(self._chunks - 1, b"".join(read(self._offset(self._chunks - 1), size)))

    def content(self, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """The content from `start` up to but without `stop`, in order, each piece proven before it is given.

        Whoever stops in the middle closes it, and with it what is read from.
        """
        stop = self.content_size if stop is None else min(stop, self.content_size)
        if start >= stop:
            return
        number, last = start // CHUNK, (stop - 1) // CHUNK
        held = bytearray()
        for piece in self._read(self._offset(number), min(self._size, self._offset(last + 1))):
            held += piece
            while len(held) >= SEALED_CHUNK:
                yield self._cut(number, bytes(held[:SEALED_CHUNK]), start, stop)
                del held[:SEALED_CHUNK]
                number += 1
        if number <= last:
            yield self._cut(number, bytes(held), start, stop)

    def _cut(self, number: int, sealed: bytes, start: int, stop: int) -> bytes:
        opened = self._unsealed(number, sealed)
        first = number * CHUNK
        return opened[max(0, start - first) : stop - first]

    def _offset(self, number: int) -> int:
        return self._start + number * SEALED_CHUNK

    def _unsealed(self, number: int, sealed: bytes) -> bytes:
        last = number == self._chunks - 1
        try:
            return self._cipher.decrypt(_counted(number, last=last), sealed, None)
        except InvalidTag:
            where = "its end is missing, or was changed" if last else f"it was changed near byte {number * CHUNK:,}"
            raise SealError(f"The file is not as it was sealed: {where}.") from None


class SealedReader(io.RawIOBase):
    """The content of a sealed file as a file that can be read and sought, for `zipfile`."""

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._sealed.content_size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        read = b"".join(self._sealed.content(self._at, self._at + len(buffer)))
        buffer[: len(read)] = read
        self._at += len(read)
        return len(read)


def _header(file_key: bytes, recipient: Recipient) -> bytes:
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient.public))
    key = _derive(shared, share + recipient.public, _X25519)
    # The key is used once: a nonce of zeros is what the format says.
    wrapped = ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None)
    covered = b"%s-> X25519 %s\n%s\n---" % (_INTRODUCTION, _base64(share), _base64(wrapped))
    return b"%s %s\n" % (covered, _base64(_mac(file_key, covered)))


def _opened(head: bytes, identity: Identity) -> tuple[bytes, int]:
    """The file key, and where the content begins."""
    if not head.startswith(_INTRODUCTION):
        raise SealError("The file is not sealed: it does not begin as a file of the age format, version 1.")
    end = head.find(b"\n--- ")
    line_end = head.find(b"\n", end + 1)
    if end < 0 or line_end < 0 or len(head) < line_end + 1 + _NONCE:
        raise SealError("The file is cut off: its header has no end.")
    covered, mac = head[: end + 4], head[end + 5 : line_end]
    lines = head[len(_INTRODUCTION) : end].split(b"\n")
    for line, body in pairwise(lines):
        kind, _, share = line.removeprefix(b"-> ").partition(b" ")
        if not line.startswith(b"-> ") or kind != b"X25519":
            continue
        file_key = _unwrapped(share, body, identity)
        if file_key is None:
            continue
        try:
            true = hmac.compare_digest(_mac(file_key, covered), _unbase64(mac))
        except ValueError:
            true = False
        if not true:
            raise SealError("The header of the file was changed after it was sealed.")
        return file_key, line_end + 1 + _NONCE
    raise SealError("The key does not open this file: it was sealed for another one, or its header was changed.")


def _unwrapped(share: bytes, body: bytes, identity: Identity) -> bytes | None:
    try:
        public = _unbase64(share)
        key = _derive(identity.exchange(public), public + identity.recipient.public, _X25519)
        return ChaCha20Poly1305(key).decrypt(bytes(12), _unbase64(body), None)
    except (ValueError, InvalidTag):
        return None


def _derive(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, purpose).derive(key)


def _mac(file_key: bytes, covered: bytes) -> bytes:
    return hmac.digest(_derive(file_key, b"", b"header"), covered, "sha256")


def _counted(number: int, *, last: bool = False) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _base64(value: bytes) -> bytes:
    return base64.b64encode(value).rstrip(b"=")


def _unbase64(value: bytes) -> bytes:
    """Raises ValueError."""
    return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
