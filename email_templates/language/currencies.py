"""How many decimals an amount of minor units has."""

from __future__ import annotations

import re
from typing import Final

_CODE: Final = re.compile(r"[A-Z]{3}", re.ASCII)

# ISO 4217, table A.1. Not CLDR's digits, which say how a currency is usually *written*: CLDR gives the Serbian dinar
# none and the Iraqi dinar none, where the ledger's minor unit is a hundredth and a thousandth. Taking those would
# print a hundred or a thousand times the amount. A test lists the differences.
_NONE: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE: Final = "BHD IQD JOD KWD LYD OMR TND"
_FOUR: Final = "CLF UYW"
_DIGITS: Final = {
    **dict.fromkeys(_NONE.split(), 0),
    **dict.fromkeys(_THREE.split(), 3),
    **dict.fromkeys(_FOUR.split(), 4),
}


def minor_digits(currency: str) -> int:
    """Decimals of the minor unit by ISO 4217: EUR 2, JPY 0, KWD 3; ValueError if it is no currency code."""
    if not _CODE.fullmatch(currency):
        raise ValueError(f"{currency!r} is not an ISO 4217 currency code: it must be three capital letters.")
    return _DIGITS.get(currency, 2)
