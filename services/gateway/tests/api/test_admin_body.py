"""Money is neither made nor lost between dollars and nano-dollars."""

import json
from decimal import Decimal
from typing import Any

import pytest
from gateway.api.admin_body import nanos_of
from gateway.core.entity_fields import LARGEST_BUDGET_NANOS
from gateway.core.pricing import dollars_of_nanos
from hypothesis import given
from hypothesis import strategies as st

ODD = ["1_000", " 1", "1 ", "١", "0x10", "1e-9", "+1", "-0", "1.", ".5", "1,50", "", "1" * 5000]


@given(st.integers(0, LARGEST_BUDGET_NANOS))
def test_every_budget_is_the_same_again(nanos: int) -> None:
    text = dollars_of_nanos(nanos)
    assert Decimal(text) * 10**9 == nanos
    assert nanos_of(text) == nanos
    assert nanos_of(json.loads(text, parse_float=Decimal)) == nanos


@given(st.one_of(st.decimals(), st.floats(), st.text(), st.integers(), st.booleans(), st.binary()))
def test_anything_else_is_refused_and_nothing_breaks(value: Any) -> None:
    try:
        nanos = nanos_of(value)
    except ValueError:
        return
    assert nanos is not None
    assert Decimal(value) * 10**9 == nanos
    assert 0 <= nanos <= LARGEST_BUDGET_NANOS


@pytest.mark.parametrize(
    "value", ["1_000", " 1", "1 ", "١", "0x10", "1e-9", "+1", "-0", "1.", ".5", "1,50", "", "1" * 5000]
)
def test_odd_texts(value: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        nanos_of(value)
