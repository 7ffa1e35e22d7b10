"""A process that begins and ends attempts until it is killed, and says on its standard output what it did."""

import asyncio
import os
import random
import sys
import time
from pathlib import Path

from gateway.adapters.journal import FileJournal
from gateway.adapters.ledger_sql import SqlLedger
from gateway.core.ledger import Attempt, Ledger, Outcome


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def step(ledger: Ledger, open_ids: list[str], number: int, chance: random.Random) -> None:
    if chance.random() < 0.55:
        id_ = f"{os.getpid()}-{number}"
        say("beginning", id_)
        ledger.begin(
            Attempt(
                id=id_, call_id=id_, number=1, kind="chat", tenant=f"t{number % 3}", project="p", key_id="k",
                principal="", model="m", alias="m", door="rest", started_at=time.time(), reserved_nanos=1_000_000,
            )
        )  # fmt: skip
        open_ids.append(id_)
        say("begun", id_)
    elif open_ids:
        id_ = open_ids.pop(chance.randrange(len(open_ids)))
        cost_nanos = chance.randrange(1000)
        say("ending", id_, cost_nanos)
        ledger.end(id_, Outcome(status="ok", cost_nanos=cost_nanos))
        say("ended", id_, cost_nanos)


async def storm(root: Path, url: str, seed: int) -> None:
    chance = random.Random(seed)
    async with SqlLedger.open(url) as store:
        with FileJournal(root, segment_bytes=chance.choice([2000, 20_000, 8_000_000])) as journal:
            ledger = Ledger(journal, store)
            await ledger.adopt()
            running = asyncio.create_task(ledger.run())
            open_ids: list[str] = []
            number = 0
            while not running.done():
                for _ in range(chance.randrange(1, 60)):
                    number += 1
                    step(ledger, open_ids, number, chance)
                await asyncio.sleep(chance.choice([0, 0, 0.001, 0.05]))
            running.result()


if __name__ == "__main__":
    asyncio.run(storm(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
