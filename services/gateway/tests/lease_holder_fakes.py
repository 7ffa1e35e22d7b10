"""A process that reserves of shared limits and begins attempts, says so, and waits until it is killed."""

import asyncio
import os
import sys
import time
from pathlib import Path

from gateway.adapters.journal import FileJournal
from gateway.adapters.ledger_sql import SqlLedger
from gateway.adapters.redis import redis_limits
from gateway.core.accounts import Account, Limits, Subject
from gateway.core.ledger import Attempt, Ledger, Outcome
from gateway.core.metering import Estimate, Meter

LIMITS = Limits(concurrent_requests=4, budget_day_nanos=10_000)
OWNERS = (("tenant", "acme"), ("project", "acme/p"), ("key", "k1"))
RESERVED_NANOS, USED_NANOS = 2_000, 300


def account() -> Account:
    subjects = tuple(Subject(kind, id_, LIMITS) for kind, id_ in OWNERS)
    return Account("acme", "p", "k1", "tester", frozenset(), subjects)


async def hold(root: Path, url: str, redis_url: str) -> None:
    """Take every slot; one attempt has ended, but what it had reserved was not settled yet."""
    async with SqlLedger.open(url) as store, redis_limits(redis_url, 5) as limits:
        with FileJournal(root) as journal:
            ledger = Ledger(journal, store)
            meter = Meter(limits, ledger)
            for number in range(4):
                id_ = f"call_{number}.1"
                await meter.reserve(account(), id_, Estimate(10, RESERVED_NANOS))
                ledger.begin(
                    Attempt(
                        id=id_, call_id=id_, number=1, kind="chat", tenant="acme", project="p", key_id="k1",
                        principal="", model="m", alias="m", door="rest", started_at=time.time(),
                        reserved_nanos=RESERVED_NANOS,
                    )
                )  # fmt: skip
            ledger.end("call_0.1", Outcome(status="ok", cost_nanos=USED_NANOS))
            os.write(1, b"held\n")
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(hold(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
