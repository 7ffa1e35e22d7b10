"""What tokens cost: prices as the catalogue has them, costs in whole nano-dollars, dollars as people write them."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from servicekit.errors import InvalidInput

NANOS_PER_DOLLAR: Final = 1_000_000_000
MOST_NANOS: Final = 2**53 - 1
"""The most money that is handled, 9 million dollars: every store counts it exactly, those of doubles too."""
LONGEST_AMOUNT: Final = 40
LARGEST_EXPONENT: Final = 6
_AMOUNT: Final = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)


class BadAmount(InvalidInput):
    """What was given is no amount of dollars that can be kept exactly."""

    default_reason = "bad_amount"


@dataclass(frozen=True, slots=True)
class Price:
    """US micro-dollars per million tokens, which is also pico-dollars per token."""

    input_micros: int = 0
    output_micros: int = 0

    def cost_nanos(self, input_tokens: int, output_tokens: int) -> int:
        """Return what a call costs in nano-dollars, rounded half up: once per call, never per token."""
        return (input_tokens * self.input_micros + output_tokens * self.output_micros + 500) // 1000


FREE: Final = Price()


def nanos_of_dollars(amount: str | int | Decimal) -> int:
    """Return dollars as nano-dollars, exactly; raise BadAmount for one that is negative, too fine or too large.

    A text is plain digits with a point, without an exponent. A binary float is not taken: 0.1 of a dollar is none.
    """
    if isinstance(amount, str) and not (len(amount) <= LONGEST_AMOUNT and _AMOUNT.fullmatch(amount)):
        raise BadAmount("an amount is a decimal number of dollars, 0 or more, such as 12.50")
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise BadAmount("an amount is a decimal number of dollars, such as 12.50")
    dollars = Decimal(amount)
    if not dollars.is_finite() or dollars < 0:
        raise BadAmount("an amount of dollars is 0 or more")
    if dollars.adjusted() > LARGEST_EXPONENT:
        raise BadAmount(f"an amount is at most {dollars_of_nanos(MOST_NANOS)} dollars")
    if not dollars:
        return 0
    _, digits, exponent = dollars.as_tuple()
    nanos = Decimal((0, digits, int(exponent) + 9))
    if dollars.adjusted() < -9 or len(digits) > LONGEST_AMOUNT or nanos != int(nanos):
        raise BadAmount("an amount has at most nine decimals")
    if nanos > MOST_NANOS:
        raise BadAmount(f"an amount is at most {dollars_of_nanos(MOST_NANOS)} dollars")
    return int(nanos)


def dollars_of_nanos(nanos: int) -> str:
    """Return nano-dollars as decimal dollars, exactly, with two decimals or as many as are needed."""
    sign, whole, fraction = "-" if nanos < 0 else "", abs(nanos) // NANOS_PER_DOLLAR, abs(nanos) % NANOS_PER_DOLLAR
    return f"{sign}{whole}.{f'{fraction:09d}'.rstrip('0').ljust(2, '0')}"
