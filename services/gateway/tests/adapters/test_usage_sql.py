"""Questions about usage on real databases: exact sums, whole pages, a limit of time, and nobody else waits."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gateway.adapters.journal import FileJournal
from gateway.adapters.ledger_sql import SqlLedger
from gateway.adapters.sql import open_engine
from gateway.adapters.usage_sql import MOST_WAITING, PAUSE_S, SqlUsage, pause_s
from gateway.core.accounts import Account
from gateway.core.ledger import HOUR_S, Ledger
from gateway.core.retention import Retention
from gateway.core.usage import Page, Usage, UsageQuery, UsageSum
from gateway_ledger_fakes import NOON, attempt, break_files, database, outcome, settled
from servicekit.errors import TimedOut, Unavailable
from servicekit.sql import NICENESS

ADMIN = Account("ops", "default", "root", "root", frozenset({"admin"}))
DAY = datetime.fromtimestamp(NOON, UTC).replace(hour=0, minute=0, second=0)


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with database(request.param, tmp_path) as made:
        yield made


def asks(**changes: object) -> UsageQuery:
    values = {"since": DAY, "until": DAY + timedelta(days=3), "limit": 1000}
    return UsageQuery(**values | changes)  # type: ignore[arg-type]


async def fill(url: str) -> None:
    start = DAY.timestamp()
    rows = [
        settled(
            f"a{number:03}",
            tenant=f"t{number % 2}",
            project=f"p{number % 3}",
            key_id=f"k{number % 5}",
            model=f"m{number % 7}",
            started_at=start + number * 900.0,
            result=outcome(cost_nanos=10**12 + number, status="ok" if number % 11 else "failed"),
        )
        for number in range(200)
    ]
    async with SqlLedger.open(url) as store:
        await store.add(rows)


def costs(page: Page[UsageSum]) -> dict[tuple[str | int, ...], int]:
    return {tuple(entry.group.values()): entry.cost_nanos for entry in page.entries}


async def test_sums_by_every_group_are_exact(url: str) -> None:
    await fill(url)
    async with SqlUsage.open(url) as source:
        usage = Usage(source)
        total = 200 * 10**12 + sum(range(200))
        (everything,) = (await usage.sums(ADMIN, asks(), admin=True)).entries
        assert (everything.cost_nanos, everything.attempts, everything.failed) == (total, 200, 19)
        for by, count in (("tenant", 2), ("project", 3), ("key", 5), ("model", 7), ("day", 3), ("hour", 50)):
            found = costs(await usage.sums(ADMIN, asks(by=(by,)), admin=True))
            assert (len(found), sum(found.values())) == (count, total)
        days = costs(await usage.sums(ADMIN, asks(by=("day",)), admin=True))
        assert days[int(DAY.timestamp()),] == 96 * 10**12 + sum(range(96))
        found = costs(await usage.sums(ADMIN, asks(by=("model", "tenant"), key_id="k1", project="p1"), admin=True))
        assert sum(found.values()) == sum(10**12 + number for number in range(200) if number % 15 == 1)
        hours = asks(since=DAY + timedelta(hours=1, minutes=30), until=DAY + timedelta(hours=2, minutes=1))
        assert (await usage.sums(ADMIN, hours, admin=True)).entries[0].attempts == 8
        assert (await usage.sums(ADMIN, asks(tenant="nobody"), admin=True)).entries[0].cost_nanos == 0


async def test_pages_are_the_whole_and_nothing_twice(url: str) -> None:
    await fill(url)
    async with SqlUsage.open(url) as source:
        usage = Usage(source)
        whole = await usage.sums(ADMIN, asks(by=("day", "model", "tenant")), admin=True)
        token, sums = "", []
        while True:
            page = await usage.sums(ADMIN, asks(by=("day", "model", "tenant"), limit=4, page_token=token), admin=True)
            sums.extend(page.entries)
            if not (token := page.next_page_token):
                break
        assert sums == list(whole.entries)
        token, ids = "", []
        while True:
            rows = await usage.rows(ADMIN, asks(limit=30, page_token=token, tenant="t1"), admin=True)
            ids.extend(row.attempt.id for row in rows.entries)
            if not (token := rows.next_page_token):
                break
        assert ids == [f"a{number:03}" for number in range(199, 0, -2)]


async def test_rows_come_back_as_they_were_and_a_call_comes_with_its_retries(url: str) -> None:
    rows = [
        settled("a", NOON + 2.25, call_id="c1", result=outcome(queue_ms=0.5, digest="sha256:1")),
        settled("b", NOON + 3, call_id="c2", retry_of="c1", started_at=NOON + 1, result=outcome(reported=False)),
        settled("c", NOON + 4, call_id="c3", started_at=NOON + 2),
    ]
    async with SqlLedger.open(url) as store, SqlUsage.open(url) as source:
        await store.add(rows)
        usage = Usage(source)
        assert (await usage.rows(ADMIN, asks(), admin=True)).entries == rows[::-1]
        assert (await usage.rows(ADMIN, asks(call_id="c1"), admin=True)).entries == [rows[1], rows[0]]


async def test_a_question_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    await fill(url)
    moments = iter(range(10**9))
    async with open_engine(url) as engine:
        source = SqlUsage(engine, limit_s=1, clock_s=lambda: float(next(moments)))
        async with engine.connect() as connection:
            await source._start(connection)
            with pytest.raises(Exception, match="interrupted"):
                await connection.exec_driver_sql(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000000) SELECT SUM(i)"
                    " FROM n"
                )
        assert len(await source.rows(asks(), None)) == 200


async def test_postgresql_stops_it_too(tmp_path: Path) -> None:
    async with database("postgresql", tmp_path) as url:
        await fill(url)
        async with (
            SqlUsage.open(url, limit_s=0.2) as source,
            open_engine(url) as engine,
            engine.connect() as held,
        ):
            await held.exec_driver_sql("LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(TimedOut):
                await source.rows(asks(), None)


async def test_questions_write_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    await fill(url)
    async with open_engine(url) as engine:
        source = SqlUsage(engine)
        await source.sums(asks(), None)
        async with engine.connect() as connection:
            with pytest.raises(Exception, match="readonly"):
                await connection.exec_driver_sql("DELETE FROM ledger")


async def test_questions_are_answered_one_by_one_and_too_many_are_refused(url: str) -> None:
    await fill(url)
    async with SqlUsage.open(url) as source:
        asked = [source.sums(asks(by=("tenant",)), None) for _ in range(MOST_WAITING + 20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Unavailable)]
        assert {(error.reason, error.retry_after_s) for error in refused} == {("usage_busy", 1)}
        served = [answer for answer in answers if isinstance(answer, list)]
        assert len(served) + len(refused) == len(answers)
        assert 4 <= len(served) <= MOST_WAITING + 1
        assert all(len(sums) == 2 for sums in served)
        await asyncio.sleep(PAUSE_S)
        assert len(await source.sums(asks(by=("tenant",)), None)) == 2


@pytest.mark.parametrize(("took_s", "paused_s"), [(0.0, 0.1), (0.005, 0.1), (0.05, 0.45), (0.1, 0.9), (4.0, 1.0)])
def test_questions_have_a_tenth_of_the_time_and_long_ones_do_not_lock_the_others_out(
    took_s: float, paused_s: float
) -> None:
    assert pause_s(took_s) == pytest.approx(paused_s)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
async def test_sqlite_works_in_threads_that_yield_to_the_others(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"

    def threads() -> set[tuple[int, int]]:
        found = [int(thread.name) for thread in Path("/proc/self/task").iterdir()]
        return {(os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)) for thread in found}

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.SCHED_IDLE not in {policy for policy, _ in threads()}
    async with SqlLedger.open(url) as store, SqlUsage.open(url) as source:
        await store.add([settled("a")])
        assert (os.SCHED_OTHER, max(NICENESS, usual)) in threads()
        assert len(await source.rows(asks(), None)) == 1
        assert os.SCHED_IDLE in {policy for policy, _ in threads()}
        assert os.getpriority(os.PRIO_PROCESS, 0) == usual, "the event loop's own thread stays as it was"


async def test_a_broken_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    await fill(f"sqlite:///{path}")
    async with SqlUsage.open(f"sqlite:///{path}") as source:
        break_files(tmp_path)
        with pytest.raises(Unavailable):
            await source.rows(asks(), None)


async def test_retention_and_heavy_questions_do_not_hold_up_begin_and_end(url: str, tmp_path: Path) -> None:
    old = [settled(f"old{number}", started_at=NOON - 40 * 86_400.0 - number) for number in range(3000)]
    async with SqlLedger.open(url) as store, SqlUsage.open(url) as source:
        await store.add(old)
        with FileJournal(tmp_path / "journal") as journal:
            ledger = Ledger(journal, store)
            took_s = 0.0
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(Retention(store, 30, clock=lambda: NOON, pause_s=0).prune())
                tasks.create_task(_ask_much(source))
                for number in range(1000):
                    start_s = time.perf_counter()
                    ledger.begin(attempt(str(number)))
                    ledger.end(str(number), outcome())
                    took_s += time.perf_counter() - start_s
                    await asyncio.sleep(0)
                tasks.create_task(ledger.flush())
        first = int(NOON - 41 * 86_400) // HOUR_S
        assert await store.spent("tenant", "acme", first) == 4000 * 100
        assert len(await source.rows(asks(limit=1000, since=DAY - timedelta(days=50)), None)) == 1000
        assert took_s < 1.0, "a thousand take 30 ms; a store that is waited for takes seconds"


async def _ask_much(source: SqlUsage) -> None:
    for _ in range(10):
        await source.sums(asks(since=DAY - timedelta(days=50), by=("hour", "model", "key", "project", "tenant")), None)
        await source.rows(asks(since=DAY - timedelta(days=50)), None)
