import math
from collections.abc import Mapping

import pytest
from feature_store.core.catalogue import Scalar, UnknownView
from feature_store.core.feature_writer import PushResult, Reason, Row, WrongRowCount
from feature_store_fakes import NOW, SECOND, Store
from hypothesis import given
from hypothesis import strategies as st
from servicekit.errors import Unavailable

USER = {"user_id": "u1"}


async def reason_of(row: Row) -> Reason | None:
    result = await Store().writer.push("acme", "profile", [row])
    assert result.accepted + len(result.rejected) == 1
    return result.rejected[0].reason if result.rejected else None


@pytest.mark.parametrize(
    ("keys", "values", "reason"),
    [
        ({}, {"visits": 1}, Reason.MISSING_KEY),
        ({"user_id": None}, {"visits": 1}, Reason.MISSING_KEY),
        ({"user_id": 5}, {"visits": 1}, Reason.WRONG_TYPE),
        ({"user_id": "u1", "x": 1}, {"visits": 1}, Reason.UNKNOWN_FIELD),
        (USER, {"shoe_size": 1}, Reason.UNKNOWN_FIELD),
        (USER, {"visits": "many"}, Reason.WRONG_TYPE),
        (USER, {"visits": 1.0}, Reason.WRONG_TYPE),
        (USER, {"visits": True}, Reason.WRONG_TYPE),
        (USER, {"premium": 1}, Reason.WRONG_TYPE),
        (USER, {"spend": math.nan}, Reason.WRONG_TYPE),
        (USER, {"spend": -math.inf}, Reason.WRONG_TYPE),
        (USER, {"spend": True}, Reason.WRONG_TYPE),
        (USER, {"spend": 2**53 + 1}, Reason.WRONG_TYPE),
        (USER, {}, Reason.NO_VALUE),
        (USER, {"visits": None, "city": None}, Reason.NO_VALUE),
        (USER, {"visits": 0}, None),
        (USER, {"city": ""}, None),
        (USER, {"spend": 3}, None),
    ],
)
async def test_checks_a_row_against_the_schema(
    keys: Mapping[str, Scalar], values: Mapping[str, Scalar], reason: Reason | None
) -> None:
    assert await reason_of(Row(keys, values, NOW)) is reason


async def test_needs_an_event_time_at_most_five_minutes_ahead() -> None:
    assert await reason_of(Row(USER, {"visits": 1}, None)) is Reason.MISSING_EVENT_TIME
    assert await reason_of(Row(USER, {"visits": 1}, NOW + 300 * SECOND)) is None
    assert await reason_of(Row(USER, {"visits": 1}, NOW + 300 * SECOND + 1)) is Reason.FUTURE_EVENT_TIME


async def test_good_rows_are_kept_beside_bad_ones_which_are_named_in_order() -> None:
    store = Store()
    rows = [
        Row(USER, {"visits": 2}, NOW),
        Row({}, {"visits": 2}, NOW),
        Row(USER, {"visits": 1}, NOW - 1),
        Row({"user_id": "u2"}, {"visits": 2}, NOW),
        Row(USER, {}, NOW),
    ]
    result = await store.writer.push("acme", "profile", rows)
    assert result.accepted == 2
    assert [(rejection.index, rejection.reason.value) for rejection in result.rejected] == [
        (1, "missing_key"), (2, "late_event"), (4, "no_value"),
    ]  # fmt: skip
    reading = await store.reader.read("acme", ["profile:visits"], [USER])
    assert reading.entities[0][0].value == 2


async def test_of_equal_event_times_the_later_push_wins() -> None:
    store = Store()
    for visits in (1, 2):
        assert await store.writer.push("acme", "profile", [Row(USER, {"visits": visits}, NOW)]) == PushResult(1, [])
    assert (await store.reader.read("acme", ["profile:visits"], [USER])).entities[0][0].value == 2


async def test_a_row_late_for_one_feature_still_brings_another() -> None:
    store = Store()
    await store.writer.push("acme", "profile", [Row(USER, {"visits": 9}, NOW)])
    result = await store.writer.push("acme", "profile", [Row(USER, {"visits": 1, "city": "Kyiv"}, NOW - SECOND)])
    reading = await store.reader.read("acme", ["profile:visits", "profile:city"], [USER])
    assert result == PushResult(1, [])
    assert [(value.value, value.event_us) for value in reading.entities[0]] == [(9, NOW), ("Kyiv", NOW - SECOND)]


@given(st.permutations(range(6)))
async def test_the_newest_event_is_what_remains_in_whatever_order_they_come(order: list[int]) -> None:
    store = Store()
    for at in order:
        await store.writer.push("acme", "profile", [Row(USER, {"visits": at}, NOW + at)])
    assert (await store.reader.read("acme", ["profile:visits"], [USER])).entities[0][0].value == 5


async def test_nothing_is_written_when_every_row_is_bad() -> None:
    store = Store()
    store.fake.failure = AssertionError("write was called")
    assert (await store.writer.push("acme", "profile", [Row({}, {}, None)])).accepted == 0


async def test_a_full_disk_reaches_the_caller() -> None:
    store = Store()
    store.fake.failure = Unavailable("no room", reason="storage_full")
    with pytest.raises(Unavailable) as caught:
        await store.writer.push("acme", "profile", [Row(USER, {"visits": 1}, NOW)])
    assert caught.value.reason == "storage_full"


@pytest.mark.parametrize("count", [0, 10_001])
async def test_refuses_no_and_too_many_rows(count: int) -> None:
    with pytest.raises(WrongRowCount):
        await Store().writer.push("acme", "profile", [Row(USER, {"visits": 1}, NOW)] * count)


async def test_names_the_unknown_view() -> None:
    with pytest.raises(UnknownView, match="'shoes'") as caught:
        await Store().writer.push("acme", "shoes", [Row(USER, {"visits": 1}, NOW)])
    assert caught.value.field == "feature_view"
