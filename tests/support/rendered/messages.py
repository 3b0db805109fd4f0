"""Every message, rendered: for the tests of their words, their markup and their looks."""

from __future__ import annotations

from functools import cache

import pytest

from email_templates.catalogue import MESSAGES
from email_templates.catalogue.message import Message
from email_templates.language.company import Company
from email_templates.mail.rendering import Rendered, render

COMPANY = Company(
    name="Halden Software",
    address=("Storgata 12", "0155 Oslo", "Norway"),
    email="billing@halden.example",
    website="halden.example",
    registration=("NO 987 654 321 MVA",),
    bank_account=("DNB Bank", "IBAN NO93 8601 1117 947", "BIC DNBANOKK"),
)
LANGUAGES = ("en", "de-AT", "fr", "ar-EG")
#: Every variant of every message in every language; `invoice-issued--settled.de-AT`.
CASES = [
    pytest.param(context, language, id=f"{message.name}{'--' + variant if variant else ''}.{language}")
    for message in MESSAGES.values()
    for variant, context in message.examples().items()
    for language in LANGUAGES
]


@cache
def rendered(context: Message, language: str = "en", name: str = "Luís Gonçalves") -> Rendered:
    return render(context, language=language, time_zone="Europe/Vienna", company=COMPANY, recipient_name=name)
