"""Tax as an invoice states it (EN 16931): what kind, which share, and how it is rounded.

Amounts in the ledger are what the customer owes, tax included. The tax in them is worked out once for each category and
rate of an invoice, on the sum of its lines: `round(gross * rate / (100 % + rate))`, half a minor unit away from zero.
The taxable base is the rest, so base and tax make the gross amount exactly, and no cent is lost or made. A line's net
amount is its share of the base, rounded such that the lines, too, add up.
"""

from __future__ import annotations

from enum import StrEnum


class TaxCategory(StrEnum):
    """UNTDID 5305, as far as EN 16931 uses it."""

    STANDARD = "S"
    ZERO_RATED = "Z"
    EXEMPT = "E"
    REVERSE_CHARGE = "AE"
    INTRA_COMMUNITY = "K"
    EXPORT = "G"
    OUTSIDE = "O"


#: Only standard-rated supplies bear tax; the rate is in basis points.
TAX_CHECK = "CASE WHEN tax_category = 'S' THEN tax_rate BETWEEN 1 AND 10000 ELSE tax_rate = 0 END"


def included(gross: int, rate: int) -> int:
    """The tax that `gross` minor units (not negative) contain at `rate` basis points, half rounded up."""
    whole = 10_000 + rate
    return (2 * gross * rate + whole) // (2 * whole)
