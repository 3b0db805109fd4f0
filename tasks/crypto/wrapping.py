"""Settings that hold secret keys, read and checked. Light: settings are parsed by every command."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

SETTING: Final = "TENURE_KEY_ENCRYPTION_KEYS"
LENGTH: Final = 32


def written_secrets(setting: str, called: str) -> list[bytes]:
    """The secrets of a setting, in order: base64 of 32 random bytes each, separated by `|`.

    Raises ValueError, which names the setting as `called` and quotes nothing.
    """
    secrets: list[bytes] = []
    for number, written in enumerate(filter(None, setting.split("|")), start=1):
        try:
            secret = base64.b64decode(written.strip(), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != LENGTH:
            raise ValueError(
                f"key {number} of {called} is not base64 of {LENGTH} bytes: `openssl rand -base64 {LENGTH}` makes one"
            )
        secrets.append(secret)
    return secrets


def wrapping_keys(setting: str) -> dict[str, bytes]:
    """The keys by their names, in order. A name is the first 8 bytes of the key's SHA-256 in hexadecimal.

    Raises as `written_secrets` does.
    """
    return {hashlib.sha256(key).hexdigest()[:16]: key for key in written_secrets(setting, SETTING)}
