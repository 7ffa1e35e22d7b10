"""A gateway is killed with all slots of a tenant taken: whoever takes its journal over gives them back, and once."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway.adapters.journal import FileJournal
from gateway.adapters.ledger_sql import SqlLedger
from gateway.adapters.redis import redis_limits
from gateway.adapters.sql import sqlite_url
from gateway.core.ledger import Ledger
from gateway.core.left_reservations import LeftReservations
from gateway.core.metering import BudgetExhausted, Estimate, Meter, RateLimited
from gateway_lease_holder_fakes import RESERVED_NANOS, USED_NANOS, account
from gateway_limit_fakes import RedisServer, redis_server

HOLDER = Path(__file__).with_name("lease_holder_fakes.py")
SPENT_NANOS = 3 * RESERVED_NANOS + USED_NANOS


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


async def killed(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HOLDER), *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"held\n"
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL


async def test_slots_of_a_killed_gateway_are_free_as_soon_as_its_journal_is_taken_over(
    redis: RedisServer, tmp_path: Path
) -> None:
    url, root = sqlite_url(tmp_path / "gateway.db"), tmp_path / "journal"
    await killed(str(root), url, redis.url)
    async with SqlLedger.open(url) as store, redis_limits(redis.url, 5) as limits:
        with FileJournal(root) as journal:
            ledger = Ledger(journal, store, settle_left=LeftReservations(limits).settle)
            meter = Meter(limits, ledger)
            with pytest.raises(RateLimited):
                await meter.reserve(account(), "early", Estimate(1, 1))
            await ledger.adopt()
            left = account().subjects[0].limits.budget_day_nanos
            assert left is not None
            held = [await meter.reserve(account(), f"new-{number}", Estimate(1, 0)) for number in range(3)]
            with pytest.raises(BudgetExhausted):
                await meter.reserve(account(), "dear", Estimate(1, left - SPENT_NANOS + 1))
            held.append(await meter.reserve(account(), "rest", Estimate(1, left - SPENT_NANOS)))
            for reservation in held:
                await meter.release(reservation)
            await ledger.adopt()
            await meter.reserve(account(), "again", Estimate(1, left - SPENT_NANOS))


async def test_what_was_settled_before_the_death_is_not_settled_again(redis: RedisServer, tmp_path: Path) -> None:
    url, root = sqlite_url(tmp_path / "gateway.db"), tmp_path / "journal"
    await killed(str(root), url, redis.url)
    async with SqlLedger.open(url) as store, redis_limits(redis.url, 5) as limits:
        with FileJournal(root) as journal:
            left = LeftReservations(limits)
            settled = []

            async def twice(rows: object) -> None:
                settled.append(rows)
                await left.settle(rows)  # type: ignore[arg-type]
                await left.settle(rows)  # type: ignore[arg-type]

            ledger = Ledger(journal, store, settle_left=twice)
            await ledger.adopt()
            assert [len(rows) for rows in settled] == [4]  # type: ignore[arg-type]
            budget = account().subjects[0].limits.budget_day_nanos
            assert budget is not None
            await Meter(limits, ledger).reserve(account(), "all that is left", Estimate(1, budget - SPENT_NANOS))
