"""The certificate by which the download page speaks HTTPS itself (P5.1a)."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates

from workers.settings.settings import PREFIX, Settings, SettingsError

CERTIFICATE, KEY = f"{PREFIX}DOWNLOAD_CERTIFICATE", f"{PREFIX}DOWNLOAD_KEY"


def context(chosen: Settings) -> ssl.SSLContext | None:
    """What the page's sockets are wrapped in; None where it has no certificate and speaks HTTP.

    TLS 1.2 or later, with the ciphers that Python considers safe. Raises SettingsError, which says which of the two
    files is wrong and quotes nothing of them.
    """
    certificate, key = chosen.download_certificate, chosen.download_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        lacking, there = (CERTIFICATE, KEY) if certificate is None else (KEY, CERTIFICATE)
        raise SettingsError(f"{lacking} is not set, and {there} is: set both for HTTPS, or none.")
    read = {}
    for name, file in ((CERTIFICATE, certificate), (KEY, key)):
        try:
            read[name] = Path(file).read_bytes()
        except OSError as error:
            raise SettingsError(f"{name} names {file}, which cannot be read: {error.strerror}.") from None
    # By themselves: of two files that do not load together OpenSSL does not say which one it is.
    try:
        load_pem_x509_certificates(read[CERTIFICATE])
    except ValueError:
        raise SettingsError(f"{CERTIFICATE} names {certificate}, in which there is no certificate in PEM.") from None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        made.load_cert_chain(certificate, key, password=_no_password)
    except _LockedError:
        raise SettingsError(
            f"{KEY} names {key}, which a password protects that nobody enters here: write it without one by "
            f"`openssl pkey -in {key} -out FILE`."
        ) from None
    except ssl.SSLError as error:
        if (error.reason or "").endswith("_MISMATCH"):
            raise SettingsError(
                f"{KEY} names {key}, which is not the key of {certificate}: the page's own certificate has to be the "
                "first one in that file."
            ) from None
        raise SettingsError(f"{KEY} names {key}, in which there is no private key in PEM.") from None
    return made


class _LockedError(Exception):
    """The key is encrypted. OpenSSL would ask the terminal for its password otherwise, and wait."""


def _no_password() -> str:
    raise _LockedError
