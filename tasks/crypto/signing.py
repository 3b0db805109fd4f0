"""Who signs certificates: Ed25519 keys of `TENURE_CERTIFICATE_KEYS`, the first for what is new.

A key has the name of its public half: the first 8 bytes of that half's SHA-256, in hexadecimal. The older keys are kept
in the setting for one purpose: when the first is a new one, the one before signs that it takes over.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from tasks.crypto.wrapping import written_secrets
from tasks.failures import Permanent

SETTING: Final = "TENURE_CERTIFICATE_KEYS"
#: Bytes of a public key as it is written down.
LENGTH: Final = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What signatures are checked with. It is no secret: whoever is to check a certificate needs it."""

    raw: bytes

    @property
    def name(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def signed(self, content: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, content)
        except (InvalidSignature, ValueError):
            return False
        return True

    @property
    def pem(self) -> str:
        """As `openssl` reads it."""
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @classmethod
    def parse(cls, written: str) -> PublicKey:
        """A key in hexadecimal or PEM. Raises ValueError, with a sentence."""
        try:
            raw = bytes.fromhex(written.strip())
        except ValueError:
            try:
                key = load_pem_public_key(written.encode())
            except Exception:
                key = None
            if not isinstance(key, Ed25519PublicKey):
                raise ValueError("it is no public Ed25519 key: `tenure certificate key` prints the right one") from None
            raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        if len(raw) != LENGTH:
            raise ValueError(f"a public Ed25519 key has {LENGTH} bytes, and this one has {len(raw)}")
        return cls(raw)


class SigningKey:
    """The secret half, made of 32 random bytes."""

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = PublicKey(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, content: bytes) -> bytes:
        return self._key.sign(content)


class Signer:
    """The keys of the setting, and in whose name they sign. An empty one signs nothing."""

    def __init__(self, setting: str = "", *, issuer: str = "") -> None:
        self._setting = setting
        self.issuer = issuer

    @cached_property
    def keys(self) -> list[SigningKey]:
        """All of them, the one for what is new first. Raises Permanent where the setting is wrong."""
        try:
            return [SigningKey(secret) for secret in written_secrets(self._setting, SETTING)]
        except ValueError as error:
            raise Permanent(f"Nothing can be signed: {error}. Set it, then retry.") from None

    @property
    def current(self) -> SigningKey:
        """The key for what is new. Raises Permanent where there is none."""
        if not self.keys:
            raise Permanent(f"Nothing can be signed: {SETTING} is not set. Set it, then retry.")
        return self.keys[0]

    def named(self, name: str) -> SigningKey | None:
        """The key of this name, where the setting has it."""
        return next((key for key in self.keys if key.public.name == name), None)
