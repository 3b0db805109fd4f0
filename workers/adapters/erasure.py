"""A processor that counts and erases an account's data at an address of its own (T21); see docs/adopt-your-database.md.

    GET    ADDRESS   ->  200 {"records": 3}    how many it holds now; 0 where it holds none
    DELETE ADDRESS   ->  200, 202 or 204       it erases them, at once or soon

404 is no answer to either: an address that is mistyped must not pass for one where nothing is left. No redirect is
followed, since what the address names would be told to somebody else.
"""

from __future__ import annotations

from http.client import HTTPException
from typing import Annotated, Any, Final
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import msgspec

from models.data_map.map import AccountKeys
from tasks.failures import Permanent, Unavailable
from workers.settings.settings import LOOPBACK

#: Seconds to connect, and for any one piece of an answer.
TIMEOUT: Final = 30
#: Bytes of an answer that are read: it is one number.
LONGEST: Final = 64 * 1024
#: It is not this request that is wrong: the token, too many requests at once, or whatever the server has.
_LATER: Final = frozenset({401, 403, 407, 408, 425, 429})


class _Held(msgspec.Struct):
    records: Annotated[int, msgspec.Meta(ge=0)]


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_request: Any) -> None:
        return None


class ErasureAddress:
    """One processor. `called` names it in sentences; `address` has `{account_ref}` or `{account_id}` in it.

    Raises Permanent where the address cannot be one; `encrypted` demands https, but on this machine.
    """

    def __init__(self, called: str, address: str, token: str | None, *, encrypted: bool) -> None:
        self._called, self._address, self._token = called, address, token
        self._open = build_opener(_NoRedirect).open
        if wrong := _wrong(address, encrypted=encrypted):
            raise Permanent(f"The address of the processor {called} {wrong}. Mend it, then retry.")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise Permanent(f"The token for the processor {called} is none: mend it, then retry.")

    def records(self, account: AccountKeys) -> int:
        content = self._ask("GET", account)
        try:
            return msgspec.json.decode(content, type=_Held).records
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Permanent(
                f'The processor {self._called} does not say how much it holds: its answer to GET is not {{"records": '
                "a number}. Have it mended, then retry."
            ) from None

    def erase(self, account: AccountKeys) -> None:
        self._ask("DELETE", account)

    def _ask(self, method: str, account: AccountKeys) -> bytes:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        request = Request(self._of(account), method=method, headers=headers)  # noqa: S310 - `_wrong` has looked
        try:
            with self._open(request, timeout=TIMEOUT) as answer:
                content: bytes = answer.read(LONGEST)
                return content
        except HTTPError as error:
            error.close()
            raise self._refused(method, error.code) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Unavailable(f"The processor {self._called} does not answer ({type(reason).__name__}).") from None

    def _of(self, account: AccountKeys) -> str:
        if account.ref in {".", ".."} and "{account_ref}" in self._address:
            raise Permanent(
                f"The ref of the account cannot be part of the address of the processor {self._called}: use "
                "{account_id} there, then retry."
            )
        ref, identity = (quote(each, safe="") for each in (account.ref, str(account.id)))
        return self._address.replace("{account_id}", identity).replace("{account_ref}", ref)

    def _refused(self, method: str, status: int) -> Permanent | Unavailable:
        said = f"The processor {self._called} answers {method} with {status}"
        if status in _LATER or status >= 500:
            return Unavailable(f"{said}; it is asked again.")
        if status in {404, 410}:
            return Permanent(
                f'{said}, which may mean that the address is wrong. Where it holds nothing it has to say {{"records": '
                "0}. Have one of them mended, then retry."
            )
        return Permanent(f"{said}: have it, or its address, mended, then retry.")


def _wrong(address: str, *, encrypted: bool) -> str | None:
    try:
        parts = urlsplit(address)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return "is none"
    if parts.scheme not in {"http", "https"} or not host or not address.isascii() or any(map(str.isspace, address)):
        return "is none: it begins with https:// and a host, without spaces"
    if parts.username is not None or parts.password is not None:
        return "has a password in it: give it in the variable that token_from names"
    if "{" in parts.netloc or not any(each in parts.path + parts.query for each in ("{account_ref}", "{account_id}")):
        return "names no account: write {account_ref} or {account_id} into its path, and not into its host"
    if encrypted and parts.scheme != "https" and host not in LOOPBACK:
        return "is a link without TLS, and personal data travels over it: use https://"
    return None
