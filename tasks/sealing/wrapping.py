"""The setting that holds the key-encryption keys, read and checked. Light: settings are parsed by every command."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

SETTING: Final = "TENURE_KEY_ENCRYPTION_KEYS"
LENGTH: Final = 32


def wrapping_keys(setting: str) -> dict[str, bytes]:
    """The keys by their names, in order: base64 of 32 random bytes each, separated by `|`.

    A name is the first 8 bytes of the key's SHA-256 in hexadecimal. Raises ValueError, quoting nothing.
    """
    keys: dict[str, bytes] = {}
    for number, written in enumerate(filter(None, setting.split("|")), start=1):
        try:
            key = base64.b64decode(written.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != LENGTH:
            raise ValueError(
                f"key {number} of {SETTING} is not base64 of {LENGTH} bytes: `openssl rand -base64 {LENGTH}` makes one"
            )
        keys[hashlib.sha256(key).hexdigest()[:16]] = key
    return keys
