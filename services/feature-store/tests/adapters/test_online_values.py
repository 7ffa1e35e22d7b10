"""What every OnlineValues has to do, on SQLite and on the fake."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from feature_store.adapters.sqlite_values import SqliteValues
from feature_store.core.ports import EntityKey, OnlineValues, StoredRow, StoredValue, ViewQuery
from feature_store_fakes import NOW, FakeOnlineValues


@pytest.fixture(params=["sqlite", "fake"])
async def values(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OnlineValues]:
    if request.param == "fake":
        yield FakeOnlineValues()
    else:
        async with SqliteValues(tmp_path / "state" / "online.db") as sqlite:
            yield sqlite


async def one(values: OnlineValues, key: EntityKey, feature: str, tenant: str = "acme") -> StoredValue | None:
    return (await values.read(tenant, [ViewQuery("v", (feature,), [key])]))[0][0].get(feature)


@pytest.mark.parametrize("value", [None, "", "Ключ \x00 \"'\\ 🦊", 0, 2**63 - 1, -(2**63), 0.1, 5e-324, 1.0, -1e308])
async def test_values_come_back_as_they_were(values: OnlineValues, value: str | float | None) -> None:
    await values.write("acme", "v", [StoredRow(("k",), {"f": value}, NOW)])
    found = await one(values, ("k",), "f")
    assert found == (value, NOW)
    assert type(found[0]) is type(value)


async def test_booleans_come_back_as_zero_and_one(values: OnlineValues) -> None:
    await values.write("acme", "v", [StoredRow(("k",), {"f": True, "g": False}, NOW)])
    found = [await one(values, ("k",), name) for name in "fg"]
    assert [(type(value[0]), value[0]) for value in found if value] == [(int, 1), (int, 0)]


async def test_keys_are_told_apart_by_value_type_tenant_and_view(values: OnlineValues) -> None:
    keys: list[EntityKey] = [(1,), ("1",), ("1", "2"), ("1,2",), ('🦊 \x00"',), ("",)]
    for number, key in enumerate(keys):
        await values.write("acme", "v", [StoredRow(key, {"f": number}, NOW)])
    assert [await one(values, key, "f") for key in keys] == [(number, NOW) for number in range(len(keys))]
    assert await one(values, (1,), "f", tenant="umbrella") is None
    assert (await values.read("acme", [ViewQuery("w", ("f",), [(1,)])])) == [[{}]]


async def test_answers_in_the_order_asked_also_when_a_key_is_asked_twice(values: OnlineValues) -> None:
    await values.write("acme", "v", [StoredRow((name,), {"f": name, "g": 0}, NOW) for name in "ab"])
    queries = [ViewQuery("v", ("f",), [("b",), ("x",), ("a",), ("b",)]), ViewQuery("v", ("g", "none"), [("a",)])]
    assert await values.read("acme", queries) == [
        [{"f": ("b", NOW)}, {}, {"f": ("a", NOW)}, {"f": ("b", NOW)}],
        [{"g": (0, NOW)}],
    ]


async def test_a_late_value_is_dropped_and_of_equal_times_the_later_write_wins(values: OnlineValues) -> None:
    rows = [StoredRow(("k",), {"f": number}, NOW + at) for number, at in enumerate([3, 1, 3, 2])]
    assert await values.write("acme", "v", rows) == [True, False, True, False]
    assert await values.write("acme", "v", [rows[1]]) == [False]
    assert await one(values, ("k",), "f") == (2, NOW + 3)


async def test_each_feature_has_its_own_time(values: OnlineValues) -> None:
    await values.write("acme", "v", [StoredRow(("k",), {"f": 1}, NOW)])
    assert await values.write("acme", "v", [StoredRow(("k",), {"f": 0, "g": 2}, NOW - 5)]) == [True]
    found = await values.read("acme", [ViewQuery("v", ("f", "g"), [("k",)])])
    assert found == [[{"f": (1, NOW), "g": (2, NOW - 5)}]]
