"""`tenure mail list` and `tenure mail preview`: what can be said, and how it looks (E13). Needs no server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.padding import Padding

from email_templates.catalogue import MESSAGES, UnknownMessage, find
from email_templates.catalogue.message import Message
from email_templates.language.company import Company
from email_templates.language.reader import reader
from email_templates.language.translations import SOURCE, languages
from email_templates.mail.rendering import render
from workers.settings.settings import SettingsError, settings
from workers.terminal.output import print_json

#: Who signs a preview where no company is set.
SAMPLE_COMPANY = Company(
    name="Example Company",
    address=("1 Example Street", "Exampletown"),
    email="billing@example.com",
    website="example.com",
    bank_account=("Example Bank", "IBAN XX00 0000 0000 0000", "BIC EXAMPLEX"),
)
SAMPLE_RECIPIENT = "Luís Gonçalves"


def list_messages(json: bool) -> int:
    """The catalogue, a message a row."""
    if json:
        rows = [
            {
                "name": message.name,
                "promise": message.promise,
                "why_not_marketing": message.why_not_marketing,
                "urgent": message.urgent,
                "rather_twice": message.rather_twice,
                "optional": message.optional,
                "variants": list(message.examples()),
                "languages": list(languages()),
            }
            for message in MESSAGES.values()
        ]
        print_json(rows)
        return 0
    console = Console(highlight=False)
    for message in MESSAGES.values():
        console.print(f"[bold]{message.name}[/]  {message.promise}  {', '.join(_traits(message))}", soft_wrap=True)
        console.print(Padding(message.why_not_marketing, (0, 0, 0, 2)))
    console.print(f"\nEach is written in {', '.join(languages())}; who reads another language gets {SOURCE}.")
    return 0


def preview(name: str, variant: str, *, language: str, time_zone: str, html: Path | None, show: bool) -> int:
    """One message with a believable context: text to the terminal, or HTML to a file or the browser."""
    try:
        message = find(name)
        context = _example(message, variant)
        mail = render(
            context, language=language, time_zone=time_zone, company=_company(), recipient_name=SAMPLE_RECIPIENT
        )
    except (UnknownMessage, ValueError) as error:
        click.echo(f"tenure: {error}", err=True)
        return 2
    written = reader(language, time_zone)
    if language.partition("-")[0].lower() != written.language:
        click.echo(f"tenure: nothing is written in {language!r}, so this is {written.language}.", err=True)
    if html is None and not show:
        click.echo(f"Subject: {mail.subject}\n\n{mail.text}", nl=False)
        return 0
    try:
        if html is None:
            handle, path = tempfile.mkstemp(prefix=f"{name}-", suffix=".html")
            os.close(handle)
            html = Path(path)
        html.write_text(mail.html, encoding="utf-8", newline="\n")
    except OSError as error:
        click.echo(f"tenure: {html} cannot be written: {error.strerror}.", err=True)
        return 2
    click.echo(f"Subject: {mail.subject}\n{html}")
    if show and click.launch(str(html.resolve())) != 0:
        click.echo("tenure: no browser could be started; open the file yourself.", err=True)
        return 1
    return 0


def _traits(message: type[Message]) -> list[str]:
    """What is peculiar to sending it."""
    traits = ["urgent" if message.urgent else "in turn"]
    if message.rather_twice:
        traits.append("rather twice than never")
    if message.optional:
        traits.append("can be declined")
    return traits


def _example(message: type[Message], variant: str) -> Message:
    examples = message.examples()
    if variant not in examples:
        known = ", ".join(repr(each) for each in examples if each) or "none but the first"
        raise ValueError(f"The message {message.name!r} has no variant {variant!r}; it has {known}.")
    return examples[variant]


def _company() -> Company:
    """The company of this installation where it is set up, and an invented one where it is not."""
    from workers.wiring.bootstrap import letterhead  # noqa: PLC0415 - it imports every adapter

    try:
        return letterhead(settings()).company
    except SettingsError:
        return SAMPLE_COMPANY
