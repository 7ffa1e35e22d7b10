"""Requests are checked, and filled from the model's defaults."""

import math

import pytest
from inference.core.generation import Sampling, Turn, check_turns
from servicekit.errors import InvalidInput

WRONG = [
    (Sampling(max_tokens=0), "sampling.max_tokens"),
    (Sampling(temperature=2.1), "sampling.temperature"),
    (Sampling(temperature=-0.1), "sampling.temperature"),
    (Sampling(temperature=math.nan), "sampling.temperature"),
    (Sampling(top_p=0.0), "sampling.top_p"),
    (Sampling(top_p=math.nan), "sampling.top_p"),
    (Sampling(stop=("a", "b", "c", "d", "e")), "sampling.stop"),
    (Sampling(stop=("a", "")), "sampling.stop[1]"),
    (Sampling(stop=("x" * 257,)), "sampling.stop[0]"),
]


@pytest.mark.parametrize(("sampling", "field"), WRONG)
def test_a_value_out_of_range_is_named(sampling: Sampling, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sampling.check()
    assert caught.value.field == field


def test_the_ends_of_the_ranges_are_allowed() -> None:
    Sampling(max_tokens=1, temperature=0.0, top_p=1.0, stop=("a", "b", "c", "d"), seed=-1).check()
    Sampling(temperature=2.0).check()


def test_what_is_not_said_comes_from_the_default() -> None:
    default = Sampling(max_tokens=100, temperature=0.5, stop=("\n",))
    assert Sampling(temperature=0.0, seed=0).over(default, 0) == Sampling(100, 0.0, None, ("\n",), 0)


@pytest.mark.parametrize(
    ("asked", "context", "granted"), [(9, 5, 5), (3, 5, 3), (None, 5, 5), (9, 0, 9), (None, 0, None)]
)
def test_max_tokens_stay_within_the_context(asked: int | None, context: int, granted: int | None) -> None:
    assert Sampling(max_tokens=asked).over(Sampling(), context).max_tokens == granted


def test_a_conversation_needs_a_message_and_known_roles() -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        check_turns([])
    with pytest.raises(InvalidInput) as caught:
        check_turns([Turn("user", "a"), Turn("tool", "b")])
    assert caught.value.field == "messages[1].role"
