"""The ageing of a balance, in words: the same rows in PDF, HTML and text (B6)."""

from __future__ import annotations

from email_templates.figures.statement import Ageing
from email_templates.language.reader import Reader


def ageing_rows(who: Reader, ageing: Ageing, currency: str) -> list[tuple[str, str]]:
    """Labels and amounts; the last row is the sum of those before it (B2)."""
    _ = who.gettext

    def days(first: int, last: int) -> str:
        return _("%(first)s–%(last)s days") % {"first": who.number(first), "last": who.number(last)}

    parts = [
        (_("Not due yet"), ageing.not_due),
        (days(1, 30), ageing.days_1_30),
        (days(31, 60), ageing.days_31_60),
        (days(61, 90), ageing.days_61_90),
        (_("Over %(days)s days") % {"days": who.number(90)}, ageing.over_90),
        (_("Unapplied credit"), -ageing.unapplied_credit),
        (_("Balance"), ageing.total),
    ]
    return [(label, who.money(minor, currency)) for label, minor in parts]
