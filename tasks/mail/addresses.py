"""E-mail addresses: what can be one, and how it goes over the wire (RFC 5321, 5322 and 6531, IDNA 2008).

Only the form is looked at. Whether a mailbox is there, a mail server says when it is written to.
"""

from __future__ import annotations

import re
from typing import Final

from email_validator import EmailNotValidError, validate_email

#: Where email-validator begins to quote what it was given.
_QUOTING: Final = re.compile(r"(:| \().*", re.DOTALL)


class NotAnAddress(ValueError):
    """The text says why, in a sentence that quotes nothing of what was given: it may be somebody's address."""


def checked(address: str) -> str:
    """The address as mail servers take it: the domain in small letters and, where all before the @ is ASCII, in ASCII.

    A domain of another script becomes its A-labels, so that every server can be asked; only where the part before the @
    needs it does the server have to know RFC 6531. Raises NotAnAddress.
    """
    try:
        found = validate_email(address, check_deliverability=False)
    except EmailNotValidError as error:
        raise NotAnAddress(f"{_QUOTING.sub('', str(error)).removesuffix('.')}.") from None
    return found.ascii_email or found.normalized
