import asyncio
import sqlite3
from pathlib import Path

import pytest
from feature_store.adapters.sqlite_values import SqliteValues, ValueFile
from feature_store.core.ports import StoredRow, ViewQuery
from feature_store_fakes import NOW
from servicekit.errors import Unavailable

QUERY = ViewQuery("v", ("f",), [("k",)])


async def test_values_outlive_the_process(tmp_path: Path) -> None:
    async with SqliteValues(tmp_path / "online.db") as values:
        await values.write("acme", "v", [StoredRow(("k",), {"f": 1}, NOW)])
    async with SqliteValues(tmp_path / "online.db") as values:
        assert await values.read("acme", [QUERY]) == [[{"f": (1, NOW)}]]


async def test_a_full_disk_keeps_nothing_says_so_and_is_survived(tmp_path: Path) -> None:
    async with SqliteValues(tmp_path / "online.db") as values:
        await values.write("acme", "v", [StoredRow(("k",), {"f": 1}, NOW)])
        values.writer.connection.execute("PRAGMA max_page_count = 8")
        large = [StoredRow((f"k{number}",), {"f": "x" * 1_000}, NOW) for number in range(100)]
        with pytest.raises(Unavailable) as caught:
            await values.write("acme", "v", [StoredRow(("k",), {"f": 2}, NOW), *large])
        assert caught.value.reason == "storage_full"
        assert await values.read("acme", [QUERY]) == [[{"f": (1, NOW)}]]
        values.writer.connection.execute("PRAGMA max_page_count = 100000")
        assert await values.write("acme", "v", large) == [True] * 100


async def test_reads_go_on_while_another_process_writes(tmp_path: Path) -> None:
    async with SqliteValues(tmp_path / "online.db") as values:
        await values.write("acme", "v", [StoredRow(("k",), {"f": 1}, NOW)])
        other = sqlite3.connect(tmp_path / "online.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE online_value SET value = 2")
        assert await values.read("acme", [QUERY]) == [[{"f": (1, NOW)}]]
        values.writer.connection.execute("PRAGMA busy_timeout = 1")
        with pytest.raises(Unavailable) as caught:
            await values.write("acme", "v", [StoredRow(("k",), {"f": 3}, NOW)])
        assert caught.value.reason == "storage_busy"
        other.execute("COMMIT")
        other.close()
        assert await values.write("acme", "v", [StoredRow(("k",), {"f": 3}, NOW)]) == [True]


async def test_concurrent_writes_lose_nothing(tmp_path: Path) -> None:
    async with SqliteValues(tmp_path / "online.db") as values:
        rows = [[StoredRow((f"k{number}",), {"f": number}, NOW)] for number in range(50)]
        await asyncio.gather(*(values.write("acme", "v", row) for row in rows))
        found = await values.read("acme", [ViewQuery("v", ("f",), [row[0].key for row in rows])])
    assert [row["f"][0] for row in found[0]] == list(range(50))


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "online.db").write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        async with SqliteValues(tmp_path / "online.db"):
            pass


def test_a_view_can_be_forgotten(tmp_path: Path) -> None:
    file = ValueFile(tmp_path / "online.db")
    for view in "vw":
        file.write("acme", view, [StoredRow(("k",), {"f": 1}, NOW)])
    file.forget_view("v")
    assert (file.has_rows("acme", "v"), file.has_rows("acme", "w")) == (False, True)
    file.close()


def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    file = ValueFile(tmp_path / "online.db")
    with pytest.raises(OverflowError):
        file.write("acme", "v", [StoredRow(("k",), {"f": 1}, NOW), StoredRow(("l",), {"f": 2**64}, NOW)])
    assert not file.has_rows("acme", "v")
    assert file.write("acme", "v", [StoredRow(("k",), {"f": 1}, NOW)]) == [True]
    file.close()
