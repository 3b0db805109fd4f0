"""Credit notes: an issued invoice never changes, and this is how it is corrected (B8).

A credit note takes back part of an invoice's lines, at the most what earlier ones have left; all of it makes the
invoice void. It has a number of its own series, and is a credit in the ledger, which settles its invoice first: the
database sees to both (`models/schema/sql/090_open_items.sql`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from email_templates.language.company import Company
from models.base.money import Money
from models.base.tax import included
from tasks.billing.statement_plan import keep_letterhead


class CreditRefused(ValueError):
    """What was asked for cannot be credited; the sentence says why. Nothing was written."""


#: The account's row first, as everywhere: whoever credits, issues or pays at the same time waits.
LOCK = text("""
    SELECT invoice.id, invoice.number, invoice.currency, account.status
      FROM tenure.invoices AS invoice JOIN tenure.accounts AS account ON account.id = invoice.account_id
     WHERE invoice.id = :invoice AND invoice.kind = 'invoice' FOR NO KEY UPDATE OF account""")

#: What is left of each line, and of the tax of its kind.
LEFT = text("""
    SELECT line.id, line.position, line.tax_category, line.tax_rate,
           (line.gross - coalesce(taken.gross, 0))::bigint AS gross,
           (tax.base - coalesce(taken_tax.base, 0))::bigint AS base,
           (tax.tax - coalesce(taken_tax.tax, 0))::bigint AS tax
      FROM tenure.invoice_lines AS line
      JOIN tenure.invoice_taxes AS tax USING (invoice_id, tax_category, tax_rate)
      LEFT JOIN (SELECT line.corrects_id AS id, sum(line.gross) AS gross
                   FROM tenure.invoices AS note JOIN tenure.invoice_lines AS line ON line.invoice_id = note.id
                  WHERE note.corrects_id = :invoice GROUP BY line.corrects_id) AS taken ON taken.id = line.id
      LEFT JOIN (SELECT tax_category, tax_rate, sum(base) AS base, sum(tax.tax) AS tax
                   FROM tenure.invoices AS note JOIN tenure.invoice_taxes AS tax ON tax.invoice_id = note.id
                  WHERE note.corrects_id = :invoice GROUP BY tax_category, tax_rate) AS taken_tax
             USING (tax_category, tax_rate)
     WHERE line.invoice_id = :invoice ORDER BY line.position""")

#: The number is drawn in the statement that writes all the rest.
WRITE = text("""
    WITH drawn AS (
        UPDATE tenure.invoice_series AS series SET last_number = last_number + 1
          FROM tenure.invoices AS corrected
         WHERE corrected.id = :invoice AND series.name = corrected.series AND series.kind = 'credit_note'
        RETURNING series.name, series.prefix, series.last_number AS number
    ), note AS (
        INSERT INTO tenure.invoices (account_id, kind, series, series_number, number, corrects_id, reason, issued_on,
                                     currency, net, tax, total, letterhead, buyer, language, time_zone)
        SELECT account_id, 'credit_note', drawn.name, drawn.number,
               drawn.prefix || lpad(drawn.number::text, greatest(6, length(drawn.number::text)), '0'), corrected.id,
               :reason, (now() AT TIME ZONE time_zone)::date, currency, :net, :tax, :total, :letterhead, buyer,
               language, time_zone
          FROM tenure.invoices AS corrected, drawn WHERE corrected.id = :invoice
        RETURNING id, number
    ), lines AS (
        INSERT INTO tenure.invoice_lines (invoice_id, position, corrects_id, description, occurred_on, tax_category,
                                          tax_rate, net, gross)
        SELECT note.id, row_number() OVER (ORDER BY line.position), line.id, line.description, line.occurred_on,
               line.tax_category, line.tax_rate, taken.net, taken.gross
          FROM note, unnest(CAST(:lines AS uuid[]), CAST(:nets AS bigint[]), CAST(:grosses AS bigint[]))
                     AS taken (id, net, gross)
          JOIN tenure.invoice_lines AS line USING (id)
    ), taxes AS (
        INSERT INTO tenure.invoice_taxes (invoice_id, tax_category, tax_rate, base, tax)
        SELECT note.id, category, rate, base, amount
          FROM note, unnest(CAST(:categories AS text[]), CAST(:rates AS int[]), CAST(:bases AS bigint[]),
                            CAST(:taxes AS bigint[])) AS tax (category, rate, base, amount)
    ), document AS (
        INSERT INTO tenure.invoice_documents (invoice_id) SELECT id FROM note
    )
    SELECT number FROM note""")


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a credit note takes back: of each line without and with tax, and of each category and rate base and tax."""

    lines: dict[UUID, tuple[int, int]]
    taxes: dict[tuple[str, int], tuple[int, int]]


def credit(
    session: Session,
    company: Company,
    invoice_id: UUID,
    *,
    amount: Money | None = None,
    positions: Sequence[int] = (),
    reason: str | None = None,
) -> str:
    """Issue a credit note in the caller's transaction; returns its number.

    It takes back what is left of the lines at `positions` (from 1), of all lines where none are named, or of these
    `amount` with tax, shared out in proportion to what is left of each. Raises CreditRefused.
    """
    invoice = session.execute(LOCK, {"invoice": invoice_id}).one_or_none()
    if invoice is None:
        raise CreditRefused("there is no such invoice; a credit note itself is not credited.")
    if invoice.status != "active":
        raise CreditRefused(f"the account of {invoice.number} is {invoice.status}: its ledger takes no more entries.")
    rows = session.execute(LEFT, {"invoice": invoice_id}).all()
    unknown = sorted(set(positions) - {row.position for row in rows})
    if unknown:
        raise CreditRefused(f"{invoice.number} has {len(rows)} lines, and no line {unknown[0]}.")
    wanted = {row.id: row.gross for row in rows if row.gross and (not positions or row.position in positions)}
    left = Money(sum(wanted.values()), invoice.currency)
    of_what = "these lines" if positions else invoice.number
    if not left.minor:
        raise CreditRefused(f"nothing is left of {of_what}: it was credited before.")
    if amount is not None:
        if amount.currency != invoice.currency or amount.minor <= 0:
            raise CreditRefused(
                f"{invoice.number} is in {invoice.currency}: credit a positive amount of that, not {amount}."
            )
        if left < amount:
            raise CreditRefused(f"{amount} is more than what is left of {of_what}: {left}.")
        wanted = {line: share.minor for line, share in zip(wanted, amount.split(list(wanted.values())), strict=True)}
    taken = _taken(rows, wanted)
    net = sum(base for base, _ in taken.taxes.values())
    tax = sum(tax for _, tax in taken.taxes.values())
    number: str = session.execute(
        WRITE,
        {
            "invoice": invoice_id,
            "reason": reason,
            "letterhead": keep_letterhead(session, company),
            "net": net,
            "tax": tax,
            "total": net + tax,
            "lines": list(taken.lines),
            "nets": [net for net, _ in taken.lines.values()],
            "grosses": [gross for _, gross in taken.lines.values()],
            "categories": [category for category, _ in taken.taxes],
            "rates": [rate for _, rate in taken.taxes],
            "bases": [base for base, _ in taken.taxes.values()],
            "taxes": [tax for _, tax in taken.taxes.values()],
        },
    ).scalar_one()
    return number


def _taken(rows: Sequence[Any], wanted: dict[UUID, int]) -> _Taken:
    """Base and tax in what is wanted of each line: rounded as on an invoice, and never more than is left of either.

    So credit notes that together take back all of an invoice take back exactly its base and its tax.
    """
    of_kind: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for row in rows:
        if wanted.get(row.id):
            of_kind[row.tax_category, row.tax_rate].append(row)
    lines: dict[UUID, tuple[int, int]] = {}
    taxes: dict[tuple[str, int], tuple[int, int]] = {}
    for kind, found in of_kind.items():
        grosses = [wanted[row.id] for row in found]
        gross, left = sum(grosses), found[0]
        tax = max(min(included(gross, kind[1]), left.tax), gross - left.base)
        taxes[kind] = (gross - tax, tax)
        before = 0
        for row, amount in zip(found, grosses, strict=True):
            net = _share(gross - tax, before + amount, gross) - _share(gross - tax, before, gross)
            lines[row.id] = (net, amount)
            before += amount
    return _Taken(lines, taxes)


def _share(base: int, part: int, whole: int) -> int:
    """`part / whole` of `base`, half rounded up, as `tasks.billing.invoice_issue` does it in SQL."""
    return (2 * base * part + whole) // (2 * whole)
