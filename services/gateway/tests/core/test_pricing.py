"""Money: exact to the nano-dollar, in and out."""

from decimal import Decimal
from fractions import Fraction

import pytest
from gateway.core.pricing import FREE, MOST_NANOS, BadAmount, Price, dollars_of_nanos, nanos_of_dollars
from hypothesis import given
from hypothesis import strategies as st


def test_a_call_costs_its_tokens_rounded_once() -> None:
    price = Price(input_micros=150_000, output_micros=600_000)
    assert price.cost_nanos(1_000_000, 0) == 150_000_000  # 15 cents a million
    assert price.cost_nanos(1, 1) == 750
    assert Price(1, 0).cost_nanos(499, 0) == 0
    assert Price(1, 0).cost_nanos(500, 0) == 1
    assert FREE.cost_nanos(10**9, 10**9) == 0


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_cost_is_never_off_by_more_than_half_a_nano(pi: int, po: int, inputs: int, outputs: int) -> None:
    exact = Fraction(inputs * pi + outputs * po, 1000)
    assert abs(Price(pi, po).cost_nanos(inputs, outputs) - exact) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("amount", "nanos"),
    [
        ("12.5", 12_500_000_000),
        (Decimal("0.1"), 100_000_000),
        (5, 5_000_000_000),
        ("0.000000001", 1),
        ("0", 0),
        (Decimal("0E-99999"), 0),
        ("9007199.254740991", MOST_NANOS),
        (Decimal("1E+3"), 10**12),
    ],
)
def test_dollars_become_nanos_exactly(amount: str | int | Decimal, nanos: int) -> None:
    assert nanos_of_dollars(amount) == nanos


@pytest.mark.parametrize(
    "amount",
    [
        *("-1", "", " 1", "1_000", "1e3", "NaN", "inf", "１", "1" * 50, "0.0000000001", "9007199.254740992"),
        *(Decimal("-0.01"), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1E-999999999")),
        *(Decimal("1E+999999999"), 10**400, -1, True, 0.1, None, [1], {}),
    ],
    ids=lambda each: repr(each)[:30],
)
def test_what_is_no_amount_is_refused(amount: object) -> None:
    with pytest.raises(BadAmount):
        nanos_of_dollars(amount)  # type: ignore[arg-type]


@given(st.integers(0, MOST_NANOS))
def test_what_is_shown_reads_back_as_the_same_amount(nanos: int) -> None:
    assert nanos_of_dollars(dollars_of_nanos(nanos)) == nanos


def test_an_amount_is_shown_with_two_decimals_or_as_many_as_it_needs() -> None:
    assert [dollars_of_nanos(each) for each in (0, 12_500_000_000, 1, -1_500_000_000)] == [
        *("0.00", "12.50", "0.000000001", "-1.50")
    ]
