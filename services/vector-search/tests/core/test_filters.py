"""What passes a filter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servicekit.errors import InvalidInput
from vector_search.core.filters import Comparison, Condition, check_filter

SCALARS = st.one_of(st.text(), st.booleans(), st.floats(allow_nan=False))


@pytest.mark.parametrize(
    ("comparison", "values", "passes"),
    [
        (Comparison.EQUAL, (3.0,), True),
        (Comparison.EQUAL, ("3",), False),
        (Comparison.NOT_EQUAL, (4.0,), True),
        (Comparison.LESS, (3.0,), False),
        (Comparison.LESS_OR_EQUAL, (3.0,), True),
        (Comparison.GREATER, (2.0,), True),
        (Comparison.GREATER_OR_EQUAL, ("2",), False),
        (Comparison.IN, (1.0, 3.0), True),
    ],
)
def test_compares(comparison: Comparison, values: tuple[float, ...], passes: bool) -> None:
    assert Condition("year", comparison, values).passes({"year": 3.0}) is passes


@given(st.sampled_from(Comparison), SCALARS)
def test_a_missing_field_never_passes(comparison: Comparison, value: str | float | bool) -> None:
    assert not Condition("year", comparison, (value,)).passes({"other": value})


@given(SCALARS, SCALARS)
def test_equal_and_not_equal_exclude_each_other(left: str | float | bool, right: str | float | bool) -> None:
    metadata = {"f": left}
    assert Condition("f", Comparison.EQUAL, (right,)).passes(metadata) is not Condition(
        "f", Comparison.NOT_EQUAL, (right,)
    ).passes(metadata)


def test_true_is_not_one() -> None:
    assert not Condition("f", Comparison.EQUAL, (1.0,)).passes({"f": True})


@pytest.mark.parametrize(
    "condition",
    [
        Condition('f" or "1', Comparison.EQUAL, ("x",)),
        Condition("", Comparison.EQUAL, ("x",)),
        Condition("f", Comparison.IN, ()),
        Condition("f", Comparison.LESS, (True,)),
        Condition("f" * 65, Comparison.EQUAL, ("x",)),
    ],
)
def test_refuses_what_cannot_be_evaluated(condition: Condition) -> None:
    with pytest.raises(InvalidInput):
        check_filter([condition])
