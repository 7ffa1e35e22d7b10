"""Chats below saturation, without and with questions about usage, and while old rows are deleted.

The store holds 200,000 rows that are old; a start with a shorter retention deletes them, one with the usual does not.
Both are started anew in every round, and what is compared was measured in turns, or as long after a start.
"""

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
from chats import BELOW_SATURATION, BESIDE, Chatter
from cores import pin_all
from report import Figure
from stand import Stand

OLD_ROWS = 200_000
OLD_DAYS = 30
KEEP, DELETE = 400, 7
HOUR_S = 3600
FULL_S, WARM_S, MEASURED_S = 3.0, 2.0, 3.0
ROUNDS, AFTER_START, TURNS = 3, 3, 4
READY_S = 30.0
QUERIES = (
    "/v1/admin/usage?since={since}&by=tenant,model,day",
    "/v1/admin/usage/attempts?since={since}&page_size=100",
    "/v1/admin/usage?since={since}&by=key,hour&page_size=100",
)


def add_old_rows(database: Path) -> None:
    """Write rows of a month that is over, and their sums, as the gateway would have."""
    end_s = int(time.time()) - OLD_DAYS * 86_400
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        for table, number in (("ledger", OLD_ROWS), ("usage_hourly", OLD_ROWS // 20)):
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            names = [column[1] for column in columns]
            like = {name: "x" if "CHAR" in kind else 1 for _, name, kind, *_ in columns}
            marks = ", ".join("?" * len(names))
            insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"
            rows = (list((like | _told(table, row, end_s)).values()) for row in range(number))
            with connection:
                connection.executemany(insert, rows)


def _told(table: str, row: int, end_s: int) -> dict[str, Any]:
    """Return what differs between old rows."""
    if table == "ledger":
        started_us = (end_s - row * 10) * 1_000_000
        return {"id": f"old-{row}", "call_id": f"old-{row}", "tenant": f"old-{row % 20}", "started_us": started_us}
    return {"tenant": f"old-{row % 20}", "key_id": f"key-{row % 5}", "hour": end_s // HOUR_S - row // 20}


def is_there(process: int) -> bool:
    """Say whether a process has not ended yet."""
    return Path(f"/proc/{process}").exists()


def rows_left(database: Path) -> int:
    """Return how many of the old rows are still there."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        return int(connection.execute("SELECT count(*) FROM ledger WHERE id LIKE 'old-%'").fetchone()[0])


@dataclass(slots=True)
class Told:
    """What one kind of round said: p99 of each in seconds, and what was done beside the chats, each second."""

    p99_s: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)


class Rounds:
    """Starts the gateway anew, and measures."""

    def __init__(self, session: aiohttp.ClientSession, stand: Stand, key: str) -> None:
        self._session, self._stand = session, stand
        self._chatter = Chatter(session, stand.running.url, key)
        self._database = stand.state / "data/gateway/gateway.db"

    async def start(self, keep_days: int) -> None:
        """End the gateway; what starts it again does so with the retention that the file says now."""
        file = self._stand.state / "gateway.yaml"
        lines = [line for line in file.read_text().splitlines() if not line.startswith("ledger:")]
        file.write_text("\n".join([*lines, f"ledger: {{retention_days: {keep_days}}}", ""]))
        before = self._stand.running.pid("gateway")
        os.kill(before, signal.SIGTERM)
        deadline = time.monotonic() + READY_S
        while not await self._ready(before):
            if time.monotonic() > deadline:
                raise RuntimeError("the gateway did not come back")
            await asyncio.sleep(0.1)
        pin_all(self._stand.running, self._stand.upstream)
        await self._chatter.paced(BESIDE, BELOW_SATURATION, WARM_S)

    async def _ready(self, before: int) -> bool:
        with suppress(aiohttp.ClientError, OSError):
            async with self._session.get(f"{self._stand.running.url}/healthz/ready") as response:
                return response.status == 200 and not is_there(before)
        return False

    async def chats(self, told: Told) -> None:
        """Measure chats with nothing beside them."""
        told.p99_s.append(await self._p99_s())
        told.beside.append(0.0)

    async def chats_beside_questions(self, told: Told) -> None:
        """Measure chats while somebody asks about usage, again as soon as he is answered."""
        asked = 0

        async def ask() -> None:
            nonlocal asked
            since = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 2 * OLD_DAYS * 86_400))
            headers = {"Authorization": f"Bearer {self._stand.running.admin_key}"}
            while True:
                path = QUERIES[asked % len(QUERIES)].format(since=since)
                async with self._session.get(self._stand.running.url + path, headers=headers) as response:
                    answer = await response.read()
                    if response.status != 200:
                        raise RuntimeError(f"{path}: {response.status} {answer[:300]!r}")
                asked += 1

        asking = asyncio.create_task(ask())
        told.p99_s.append(await self._p99_s())
        if asking.done():
            await asking
        asking.cancel()
        told.beside.append(asked / MEASURED_S)

    async def chats_beside_deletion(self, told: Told) -> None:
        """Measure chats while old rows are deleted."""
        before = rows_left(self._database)
        told.p99_s.append(await self._p99_s())
        told.beside.append((before - rows_left(self._database)) / MEASURED_S)

    async def _p99_s(self) -> float:
        return quantiles(await self._chatter.paced(BESIDE, BELOW_SATURATION, MEASURED_S), n=100)[98]


async def _measure(stand: Stand) -> list[Figure]:
    pin_all(stand.running, stand.upstream)
    key = stand.limited_key("bench-ledger")
    add_old_rows(stand.state / "data/gateway/gateway.db")
    plain, asked, fresh, deleted = Told(), Told(), Told(), Told()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await Chatter(session, stand.running.url, key).load(BESIDE, FULL_S)
        rounds = Rounds(session, stand, key)
        for _ in range(ROUNDS):
            await rounds.start(KEEP)
            for _ in range(AFTER_START):
                await rounds.chats(fresh)
            for _ in range(TURNS):
                await rounds.chats(plain)
                await rounds.chats_beside_questions(asked)
            await rounds.start(DELETE)
            for _ in range(AFTER_START):
                await rounds.chats_beside_deletion(deleted)
    return [
        Figure("chats", BELOW_SATURATION, "1/s"),
        *_compared("questions about usage", asked, plain),
        *_compared("old rows deleted", deleted, fresh),
    ]


def _compared(beside: str, told: Told, without: Told) -> Sequence[Figure]:
    p99_ms, without_ms = median(told.p99_s) * 1e3, median(without.p99_s) * 1e3
    return [
        Figure(f"chats beside {beside}, p99", p99_ms, "ms", 1.2, at_most=True, baseline=without_ms),
        Figure(f"  {beside}", median(told.beside), "1/s", bar=1),
    ]


def measure(stand: Stand) -> list[Figure]:
    """Return what the books cost the chats."""
    return asyncio.run(_measure(stand))
