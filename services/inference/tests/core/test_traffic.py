"""Who gets which version: shares, stickiness, and that nobody moves without need."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.core.traffic import (
    SLOTS,
    Caller,
    Candidate,
    Ranges,
    Route,
    SplitBy,
    allocate,
    slot_of,
    table_of,
)


def route(weights: dict[str, int], split_by: SplitBy = SplitBy.KEY, model: str = "m") -> Route:
    numbers = {name: number for number, name in enumerate(weights, 1)}
    candidates = tuple((Candidate(name, "default", name, ""),) for name in weights)
    table = table_of(allocate({}, weights), numbers)
    return Route(model, canaries=candidates, table=table, split_by=split_by)


def version(of: Route, caller: Caller, random: float = 0.0) -> str:
    chosen = of.canary(caller, lambda _: True, lambda: random)
    return "champion" if chosen is None else chosen.version


def test_a_canary_of_ten_percent_gets_ten_percent_of_20000_callers() -> None:
    ten = route({"2": 1_000})
    canary = sum(version(ten, Caller("t", f"key-{number}")) == "2" for number in range(20_000))
    assert 1_800 <= canary <= 2_200


def test_and_of_20000_requests_of_one_caller_when_requests_are_drawn_for_themselves() -> None:
    ten = route({"2": 1_000}, SplitBy.REQUEST)
    canary = sum(version(ten, Caller("t", "k"), number / 20_000) == "2" for number in range(20_000))
    assert canary == 2_000


def test_a_caller_stays_with_his_version() -> None:
    third = route({"2": 3_333})
    for number in range(200):
        caller = Caller("t", f"key-{number}")
        assert len({version(third, caller) for _ in range(10)}) == 1


def test_a_tenant_stays_together_where_tenants_are_split() -> None:
    half = route({"2": 5_000}, SplitBy.TENANT)
    by_tenant = [{version(half, Caller(f"t{tenant}", f"k{key}")) for key in range(20)} for tenant in range(100)]
    assert all(len(versions) == 1 for versions in by_tenant)
    assert {versions.pop() for versions in by_tenant} == {"2", "champion"}


def test_the_same_key_of_another_tenant_or_for_another_model_is_drawn_anew() -> None:
    keys = [f"key-{number}" for number in range(100)]
    assert [slot_of("m", key) for key in keys] != [slot_of("other", key) for key in keys]
    half = route({"2": 5_000})
    assert {version(half, Caller(f"t{number}", "same")) for number in range(50)} == {"2", "champion"}


@pytest.mark.parametrize(
    ("weights", "expected"), [({}, {"champion"}), ({"2": 0}, {"champion"}), ({"2": 10_000}, {"2"})]
)
def test_nobody_and_everybody(weights: dict[str, int], expected: set[str]) -> None:
    some = route(weights)
    assert {version(some, Caller("t", f"key-{number}")) for number in range(1_000)} == expected


def test_a_canary_that_cannot_serve_leaves_its_callers_to_the_champion() -> None:
    everybody = route({"2": 10_000})
    assert everybody.canary(Caller("t", "k"), lambda _: False, lambda: 0.0) is None


WEIGHTS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 2_000), max_size=5)


def slots(of: Ranges) -> set[int]:
    return {slot for start, end in of for slot in range(start, end)}


@settings(max_examples=60, deadline=None)
@given(st.lists(WEIGHTS, min_size=2, max_size=5))
def test_whatever_weights_follow_each_other_as_few_callers_move_as_must(steps: list[dict[str, int]]) -> None:
    before: dict[str, Ranges] = {}
    for weights in steps:
        after = allocate(before, weights)
        everything: set[int] = set()
        for name, ranges in after.items():
            mine, had = slots(ranges), slots(before.get(name, ()))
            assert len(mine) == weights[name]
            assert mine <= had or mine >= had, "one that grows loses nobody, one that shrinks takes nobody"
            assert not mine & everything
            everything |= mine
        assert all(0 <= slot < SLOTS for slot in everything)
        before = after


def test_a_growing_canary_keeps_every_caller_it_has() -> None:
    callers = [Caller("t", f"key-{number}") for number in range(2_000)]
    before: dict[str, Ranges] = {}
    had: set[Caller] = set()
    for weight in (100, 1_000, 2_500, 5_000, 10_000):
        before = allocate(before, {"2": weight})
        grown = Route("m", canaries=((Candidate("2", "", "2", ""),),), table=table_of(before, {"2": 1}))
        mine = {caller for caller in callers if version(grown, caller) == "2"}
        assert had <= mine
        had = mine
    assert len(had) == len(callers)
