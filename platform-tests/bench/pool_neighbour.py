"""What loads of other models on the same server do to one that is in use, beside what a busy loop on one core does.

Three conditions take turns, some seconds each, so that whatever else the machine does falls on all of them alike: the
model alone, beside loads one after another, and beside a process that keeps one core busy. The last one says what part
of it is the machine's: a load works on one core as well. The model in use is the int8 encoder, and those that are
loaded are copies of the one in fp32.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path

from inference.core.pool import Pool
from inference.core.residency_measures import LOADS
from pool_oip import encoder_requests
from pool_stand import ENCODER, MODELS, tritons
from report import Figure
from residency import MIB, UNMANAGED, Outcome, ask, counted, pool, ready, write_model

OTHERS = tuple(f"fp32-{number}" for number in range(3))
BUDGET_BYTES = 900 * MIB
ROUNDS, TURN_S, PAUSE_S = 12, 5.0, 0.01
Condition = Callable[[], AbstractAsyncContextManager[None]]


async def measure_beside(opened: Pool) -> list[Figure]:
    """Return the figures."""
    others, asked = Outcome(), encoder_requests(1)[0]
    await ready(opened, ENCODER, asked)
    loads = counted(LOADS, "_count")

    async def churn() -> None:
        while True:
            for name in OTHERS:
                await ask(opened, name, asked, others)

    conditions: dict[str, Condition] = {
        "alone": nullcontext,
        "loads": lambda: _running(churn()),
        "busy": _busy_core,
    }
    seen = {name: Outcome() for name in conditions}
    for _ in range(ROUNDS):
        for name, condition in conditions.items():
            async with condition():
                await _ask_for(opened, asked, seen[name])
    errors = sum(len(each.errors) for each in (*seen.values(), others))
    alone, beside, busy = seen["alone"], seen["loads"], seen["busy"]
    return [
        Figure("requests that failed beside loads", errors, "", bar=0, at_most=True),
        Figure("loads beside them", counted(LOADS, "_count") - loads, ""),
        Figure("p50 beside loads", beside.p(0.5), "ms", baseline=alone.p(0.5)),
        Figure("p99 beside loads", beside.p(0.99), "ms", bar=1.5, at_most=True, baseline=alone.p(0.99)),
        Figure("  p99 beside a busy loop on one core", busy.p(0.99), "ms", baseline=alone.p(0.99)),
    ]


@asynccontextmanager
async def _running(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _busy_core() -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _ask_for(pool_: Pool, request: bytes, outcome: Outcome) -> None:
    """Ask the model in use again and again."""
    end = time.monotonic() + TURN_S
    while time.monotonic() < end:
        await ask(pool_, ENCODER, request, outcome)
        await asyncio.sleep(PAUSE_S)


async def _measure(folder: Path, repository: Path) -> list[Figure]:
    pinned = f", pinned: [{ENCODER}]"
    with tritons(repository, (UNMANAGED,)) as servers:
        async with pool(folder, servers, (ENCODER, *OTHERS), BUDGET_BYTES, pinned) as opened:
            return await measure_beside(opened)


def measure() -> list[Figure]:
    """Return the figures of a model beside loads."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        repository = Path(name) / "repository"
        write_model(repository, UNMANAGED)
        for model, built in {ENCODER: ENCODER, **dict.fromkeys(OTHERS, f"{ENCODER}-fp32")}.items():
            (repository / model).symlink_to(MODELS / built, target_is_directory=True)
        return asyncio.run(_measure(Path(name), repository))
