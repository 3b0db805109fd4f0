"""Money: whole minor units of one currency. Never a float, and never two currencies in one sum (B1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Final

# ISO 4217, list one, by the decimals of the minor unit. Not CLDR's digits, which say how a currency is usually written
# and have none for some whose ledgers count hundredths; a test names the differences.
_BY_DIGITS: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: """AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF
          CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG
          HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR
          MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD
          SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG
          YER ZAR ZMW ZWG""",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
#: Withdrawn since 2015 (list three), for ledgers that reach back; two decimals each.
_WITHDRAWN: Final = "ANG CUC HRK MRO SLL STD VEF ZWL"

#: Every currency that a ledger may hold, with the decimals of its minor unit; `tenure migrate` publishes it to SQL.
CURRENCIES: Final[Mapping[str, int]] = MappingProxyType(
    {code: digits for digits, codes in _BY_DIGITS.items() for code in codes.split()}
    | dict.fromkeys(_WITHDRAWN.split(), 2)
)
_AMOUNT: Final = re.compile(r"([+-]?)(\d{1,15})(?:\.(\d{1,4}))?", re.ASCII)


class MoneyError(ValueError):
    """What was given is no amount of money, or the amounts are of two currencies."""


def whole(minor: object) -> int:
    """The number of minor units, where it is one; MoneyError for all else, even a float that happens to be whole."""
    if type(minor) is not int:
        raise MoneyError(f"An amount is a whole number of minor units, and {minor!r} is none.")
    return minor


@dataclass(frozen=True, slots=True)
class Money:
    """So many minor units of a currency: `Money(1050, "EUR")` is 10.50 EUR, `Money(1050, "JPY")` 1050 JPY."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        whole(self.minor)
        if self.currency not in CURRENCIES:
            raise MoneyError(f"{self.currency!r} is not a currency of ISO 4217: use a code such as EUR.")

    @classmethod
    def parse(cls, amount: str, currency: str) -> Money:
        """Money from what a person types: `10.5` of EUR is 1050 minor units. Raises MoneyError; nothing is rounded."""
        digits = cls(0, currency).digits
        match = _AMOUNT.fullmatch(amount.strip())
        if match is None:
            raise MoneyError(f"{amount!r} is not an amount: write figures and at most one point, such as 12.50.")
        sign, whole, fraction = match.groups(default="")
        if len(fraction) > digits:
            raise MoneyError(f"{amount!r} has {len(fraction)} decimals, and {currency} has {digits}.")
        return cls(int(f"{sign}{whole}{fraction.ljust(digits, '0')}"), currency)

    @property
    def digits(self) -> int:
        """Decimals of the currency's minor unit (ISO 4217): EUR 2, JPY 0, KWD 3."""
        return CURRENCIES[self.currency]

    def __add__(self, other: Money) -> Money:
        return Money(self.minor + self._same(other), self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.minor - self._same(other), self.currency)

    def __neg__(self) -> Money:
        return Money(-self.minor, self.currency)

    def __lt__(self, other: Money) -> bool:
        return self.minor < self._same(other)

    def __le__(self, other: Money) -> bool:
        return self.minor <= self._same(other)

    def __str__(self) -> str:
        """For operators: `1,234.50 EUR`. What customers read is written by `email_templates.language.figures`."""
        return f"{Decimal(self.minor).scaleb(-self.digits):,.{self.digits}f} {self.currency}"

    def split(self, weights: list[int]) -> list[Money]:
        """Shares in the proportion of `weights` (none negative, not all zero) that add up to the whole, exactly.

        Each is the exact share rounded down; what is left over goes, a minor unit each, to those that lost most by it,
        the first of equals. Raises MoneyError for weights that are none.
        """
        total = sum(weights)
        if total <= 0 or min(weights) < 0:
            raise MoneyError("Shares need weights that are not negative and not all zero.")
        shares = [self.minor * weight // total for weight in weights]
        losses = [-(self.minor * weight % total) for weight in weights]
        for place in sorted(range(len(weights)), key=losses.__getitem__)[: self.minor - sum(shares)]:
            shares[place] += 1
        return [Money(share, self.currency) for share in shares]

    def _same(self, other: Money) -> int:
        if other.currency != self.currency:
            raise MoneyError(f"{self.currency} and {other.currency} are never added or compared.")
        return other.minor
