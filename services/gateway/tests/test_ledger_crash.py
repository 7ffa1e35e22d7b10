"""Real processes are killed while they begin and end attempts: afterwards there is exactly one row for each."""

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy
from gateway.adapters.journal import FileJournal
from gateway.adapters.ledger_sql import SqlLedger
from gateway.adapters.ledger_tables import ledger as rows_table
from gateway.adapters.ledger_tables import usage_hourly
from gateway.adapters.sql import open_engine
from gateway.core.ledger import Ledger
from gateway_ledger_fakes import database

STORM = Path(__file__).with_name("ledger_storm.py")
RESERVED_NANOS = 1_000_000


@dataclass
class Truth:
    """What the killed processes said they did; of the last step of each it is not known whether it came to be."""

    said: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"beginning": {}, "begun": {}, "ending": {}, "ended": {}}
    )

    def hear(self, line: bytes) -> None:
        if line.endswith(b"\n"):
            word, id_, *cost = line.decode().split()
            self.said[word][id_] = int(cost[0]) if cost else 0


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with database(request.param, tmp_path) as made:
        yield made


async def live_and_die(truth: Truth, root: Path, url: str, chance: random.Random) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(STORM), str(root), url, str(chance.random())[2:10], stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(chance.randrange(1, 6000)):
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert line, "the process ended by itself"
        truth.hear(line)
    process.send_signal(signal.SIGKILL)
    async for line in process.stdout:
        truth.hear(line)
    assert await process.wait() == -signal.SIGKILL


async def test_after_kills_at_any_moment_there_is_one_row_for_each_attempt(url: str, tmp_path: Path) -> None:
    chance, truth, root = random.Random(20), Truth(), tmp_path / "journal"
    for _ in range(4):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(live_and_die(truth, root, url, chance))
    async with SqlLedger.open(url) as store:
        with FileJournal(root) as journal:
            await Ledger(journal, store).adopt()
    assert list(root.iterdir()) == []
    async with open_engine(url) as engine, engine.connect() as connection:
        columns = (rows_table.c.id, rows_table.c.status, rows_table.c.cost_nanos, rows_table.c.tenant)
        rows = (await connection.execute(sqlalchemy.select(*columns))).all()
        sums = (await connection.execute(sqlalchemy.select(usage_hourly))).all()
    ids = {row.id for row in rows}
    said = truth.said
    assert len(said["begun"]) > 1000
    assert said["begun"].keys() <= ids <= said["beginning"].keys()
    assert len(ids - said["begun"].keys()) <= 8
    for row in rows:
        if row.status == "ok":
            assert row.cost_nanos == said["ending"][row.id]
        else:
            assert (row.status, row.cost_nanos) == ("abandoned", RESERVED_NANOS)
            assert row.id not in said["ended"]
    for tenant in {row.tenant for row in rows}:
        of_rows = [row for row in rows if row.tenant == tenant]
        of_sums = [line for line in sums if line.tenant == tenant]
        assert sum(line.cost_nanos for line in of_sums) == sum(row.cost_nanos for row in of_rows)
        assert sum(line.attempts for line in of_sums) == len(of_rows)
        assert sum(line.abandoned for line in of_sums) == sum(row.status == "abandoned" for row in of_rows)
