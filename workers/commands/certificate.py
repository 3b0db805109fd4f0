"""`tenure certificate`: list, show, export and verify certificates of erasure (T25).

Exit codes: 0 fine, 1 something is not as it was issued, or nothing was issued, 2 wrong use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import click
from rich.console import Console, JustifyMethod
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.base.unit_of_work import Database
from models.termination.certificate import Certificate, CertificateCopy, CertificateKind, called
from tasks.certificates import publishing
from tasks.certificates.chain import Examined, Head, Signed, document, examine
from tasks.crypto.signing import PublicKey, Signer
from tasks.failures import Failure
from workers.adapters.objects.s3 import S3ObjectStore
from workers.settings.settings import settings
from workers.terminal import certificate as certificate_page
from workers.terminal.options import FILE, as_json
from workers.terminal.output import CommandFailed, WrongUse, print_json, reports_errors

certificate = click.Group("certificate", help="They are signed and chained, and can be checked without any server.")

WHAT: Mapping[str, str] = {
    CertificateKind.KEY: "key",
    CertificateKind.PURGE: "account erased",
    CertificateKind.ARCHIVE: "record erased",
    CertificateKind.RETENTION: "retention ended",
}
_NAME = re.compile(r"(?:PC-\d{4}-)?0*(\d{1,18})", re.IGNORECASE)


@certificate.command("list")
@as_json
@reports_errors
def list_certificates(json: bool) -> None:
    """List all certificates, the oldest first."""
    with _session() as session:
        rows = session.scalars(select(Certificate).order_by(Certificate.number)).all()
    if json:
        told = [
            {
                "number": row.number,
                "name": called(row.number, row.issued_at),
                "kind": row.kind,
                "issued_at": row.issued_at,
                "termination": row.termination_id,
                "sha256": row.sha256.hex(),
                "key": row.key,
            }
            for row in rows
        ]
        print_json(told)
        return
    if not rows:
        click.echo("No certificate was issued yet.")
        return
    table = Table(box=None, pad_edge=False)
    headings: list[tuple[str, JustifyMethod]] = [
        ("certificate", "left"), ("issued (UTC)", "left"), ("that", "left"), ("termination or key", "left"),
        ("sha-256", "left"),
    ]  # fmt: skip
    for heading, justify in headings:
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=True)
    for row in rows:
        about = str(row.termination_id or Signed.of(row.body, row.signature).content["introduces"])
        name = called(row.number, row.issued_at)
        table.add_row(name, f"{row.issued_at:%Y-%m-%d %H:%M}", WHAT[row.kind], about, row.sha256.hex()[:8] + "…")
    Console().print(table)


@certificate.command()
@click.argument("which", metavar="NUMBER|TERMINATION")
@as_json
@reports_errors
def show(which: str, json: bool) -> None:
    """Show one certificate, or all of a termination.

    Give a number, such as 19 or PC-2026-00019, or the id of a termination.
    """
    with _session() as session:
        found = _found(session, which)
        copied = _copies(session, found)
    if not found:
        raise _unknown(which)
    if json:
        print_json([each.content for each in found])
        return
    signer = Signer(settings().certificate_keys)
    console = Console(highlight=False)
    for each in found:
        certificate_page.show(console, each, key=_public(signer, each), copied=copied[each.number])


@certificate.command()
@click.argument("which", metavar="[NUMBER|TERMINATION]", required=False)
@click.option("--out", type=FILE, help="Write to this file instead of printing it.")
@reports_errors
def export(which: str | None, out: Path | None) -> None:
    """Export the whole chain of certificates.

    It can be verified anywhere. With a number or the id of a termination, only these certificates are exported,
    with the keys that verify them.
    """
    with _session() as session:
        chain = publishing.chain(session)
        wanted = chain if which is None else _found(session, which)
    if not wanted:
        raise CommandFailed("no certificate was issued yet.") if which is None else _unknown(which)
    signer = Signer(settings().certificate_keys)
    if which is None:
        content = document(chain, whole=True, signer=signer.named(chain[-1].content["key"]) or signer.current)
    else:
        numbers = {each.number for each in wanted}
        kept = [each for each in chain if each.content["kind"] == "key" or each.number in numbers]
        content = document([each for each in kept if each.number <= max(numbers)], whole=False)
    if out is None:
        click.echo(content, nl=False)
    else:
        out.write_bytes(content)
        click.echo(f"{len(wanted)} certificates are in {out}. To check it: tenure certificate verify {out} --key KEY")


@certificate.command()
@click.argument("file", required=False, type=FILE)
@click.option("--key", "keys", multiple=True, metavar="KEY", help="A public key that you trust, or a file with it.")
@click.option("--head", metavar="NUMBER:SHA256", help="A certificate that you know of, such as the latest.")
@reports_errors
def verify(file: Path | None, keys: Sequence[str], head: str | None) -> int:
    """Verify a file of certificates, or this installation's chain.

    A file is verified without any server, and needs --key. Exits with 1 if something is not as it was issued.
    """
    try:
        known = Head.parse(head) if head else None
        trusted = [_key(written) for written in keys]
    except ValueError as error:
        raise WrongUse(f"{error}.") from error
    if file is None:
        return _verify_own(trusted, known)
    if not trusted:
        raise WrongUse(
            "give the public key that you trust by --key: a file can bring along any key. Whoever issued the "
            "certificates publishes theirs (tenure certificate key)."
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WrongUse(f"{file} cannot be read: {error.strerror}.") from error
    return _told(str(file), examine(content, trusted, head=known))


@certificate.command()
@reports_errors
def key() -> None:
    """Print the public keys that verify certificates.

    Publish them, so that others can verify what you hand out.
    """
    signer = Signer(settings().certificate_keys)
    current = signer.current.public
    click.echo(f"Key {current.name} signs certificates:\n\n  {current.raw.hex()}\n\n{current.pem}", nl=False)
    for each in signer.keys[1:]:
        click.echo(f"\nKey {each.public.name} signed before: {each.public.raw.hex()}")


def _verify_own(trusted: Sequence[PublicKey], head: Head | None) -> int:
    with _session() as session:
        chain = publishing.chain(session)
    if not chain:
        click.echo("No certificate was issued yet.")
        return 0
    signer = Signer(settings().certificate_keys)
    trusted = trusted or [each.public for each in signer.keys]
    signing = signer.named(chain[-1].content["key"]) or signer.current
    found = examine(document(chain, whole=True, signer=signing), trusted, head=head)
    found.problems += _beside_copies(chain)
    return _told("The chain of this installation", found)


def _beside_copies(chain: Sequence[Signed]) -> Iterator[str]:
    """What the object store has and the database has not, or otherwise."""
    ours = {each.number: each for each in chain}
    for each in publishing.copies(S3ObjectStore(settings())):
        mine = ours.get(each.number)
        if mine is None:
            yield (
                f"Certificate {each.number} is in the object store and not in the database: it was cut off, or an "
                "older backup was restored."
            )
        elif mine.body != each.body:
            yield f"Certificate {each.number} is another one in the object store than in the database."


def _told(what: str, found: Examined) -> int:
    for problem in found.problems:
        click.echo(f"tenure: {problem}", err=True)
    if found.problems:
        click.echo(f"{what} is not as it was issued.", err=True)
        return 1
    last = found.certificates[-1]
    if found.whole:
        click.echo(f"{what} is as it was issued: {len(found.certificates):,} certificates, none missing.")
        click.echo(f"Its head at {found.stated_at}: {last.number}:{last.sha256}")
    else:
        names = ", ".join(str(each.content["name"]) for each in found.certificates if each.content["kind"] != "key")
        click.echo(f"{what} is as it was issued: an extract with {names or 'keys alone'}.")
        click.echo(f"{last.number}:{last.sha256}")
    return 0


def _found(session: Session, which: str) -> list[Signed]:
    """By number, by name, or by the id of a termination, of which there may be several."""
    query = select(Certificate.body, Certificate.signature).order_by(Certificate.number)
    numbered = _NAME.fullmatch(which.strip())
    if numbered:
        query = query.where(Certificate.number == int(numbered[1]))
    else:
        try:
            query = query.where(Certificate.termination_id == UUID(which))
        except ValueError:
            return []
    return [Signed.of(row.body, row.signature) for row in session.execute(query)]


def _copies(session: Session, found: Sequence[Signed]) -> dict[int, bool]:
    numbers = [each.number for each in found]
    waiting = session.scalars(
        select(CertificateCopy.number).where(CertificateCopy.number.in_(numbers), CertificateCopy.state != "done")
    ).all()
    return {number: number not in waiting for number in numbers}


def _public(signer: Signer, signed: Signed) -> PublicKey | None:
    try:
        found = signer.named(str(signed.content["key"]))
    except Failure:
        return None
    return found.public if found else None


def _key(written: str) -> PublicKey:
    """In hexadecimal, in PEM, or in a file of either."""
    file = Path(written)
    try:
        if len(written) < 200 and file.is_file():
            written = file.read_text(encoding="utf-8")
        return PublicKey.parse(written)
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"the key file {written} cannot be read") from None
    except ValueError as error:
        raise ValueError(f"--key: {error}") from None


def _unknown(which: str) -> WrongUse:
    return WrongUse(f"there is no certificate {which!r}: tenure certificate list has them.")


@contextmanager
def _session() -> Iterator[Session]:
    database = Database(settings().database_url, pool_size=1)
    try:
        with database.snapshot() as session:
            yield session
    finally:
        database.engine.dispose()
