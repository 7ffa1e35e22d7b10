"""A server's model repository that takes (virtual) time and memory, and can be made to fail, for tests of residency."""

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from inference.core.ports import BackendLost
from inference.core.residency_ports import Footprint, LoadFailed, Memory, Status
from servicekit.errors import TimedOut

T = TypeVar("T")
BASELINE_BYTES = 500


class _NoWait(selectors.DefaultSelector):
    """Looks for what is ready and never waits for it."""

    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everything waits, and nothing will ever happen")
        if not ready and timeout:
            self._skip(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next thing that happens: the order is the same in every run."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_NoWait(self._jump))

    def time(self) -> float:
        return self._now

    def _jump(self, seconds: float) -> None:
        self._now += seconds


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a test in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    """Return the loop's clock."""
    return asyncio.get_running_loop().time()


class FakeRepository:
    """One server: what it has loaded, what it holds, and whoever runs a model in it."""

    def __init__(self, sizes: Mapping[str, int], load_s: float = 1.0) -> None:
        self.sizes = sizes
        self.load_s = load_s
        self.unload_s = 0.05
        self.ready: set[str] = set()
        self.going: set[str] = set()
        self.kept_bytes: dict[str, int] = {}
        """What an unload leaves behind, per model."""
        self.leaked_bytes = 0
        self.dead = False
        self.refuses: set[str] = set()
        self.hangs_on: set[str] = set()
        self.hung: set[str] = set()
        self.refuses_unload = False
        self.never_unloads: set[str] = set()
        self.checked_wrong: dict[str, str] = {}
        self.measures = True
        self.tells_models = False
        self.loads: list[str] = []
        self.loading = 0
        self.most_at_once = 0
        self.peak_bytes = 0
        self.running: dict[str, int] = {}
        self.broken: list[str] = []
        """Models that were unloaded while somebody ran them, or run while they were not there."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["FakeRepository"]:
        yield self

    async def check(self, model: str) -> None:
        if model in self.checked_wrong:
            raise LoadFailed(self.checked_wrong[model])

    async def load(self, model: str, timeout_s: float) -> None:
        await self._answer(0)
        self.loads.append(model)
        self.loading += 1
        self.most_at_once = max(self.most_at_once, self.loading)
        try:
            if model in self.hangs_on:
                self.hung.add(model)
                await asyncio.sleep(timeout_s)
                raise TimedOut("the load takes for ever")
            await self._answer(self.load_s)
            if model in self.refuses:
                raise LoadFailed(f"{model}: the file is no model")
        finally:
            self.loading -= 1
        self.ready.add(model)
        self.peak_bytes = max(self.peak_bytes, self.used_bytes - BASELINE_BYTES)

    async def unload(self, model: str, timeout_s: float) -> None:
        await self._answer(0)
        if self.refuses_unload:
            raise LoadFailed("the server does not unload")
        if self.running.get(model):
            self.broken.append(model)
        if model in self.ready:
            self.ready.discard(model)
            self.going.add(model)
            if model not in self.never_unloads:
                asyncio.get_running_loop().call_later(self.unload_s, self._gone, model)

    def _gone(self, model: str) -> None:
        self.going.discard(model)
        self.leaked_bytes += self.kept_bytes.get(model, 0)

    async def index(self, timeout_s: float) -> Mapping[str, Status]:
        await self._answer(0.001)
        found = dict.fromkeys(self.sizes, Status.ABSENT) | dict.fromkeys(self.ready, Status.READY)
        found |= dict.fromkeys(self.hung, Status.LOADING)
        return found | dict.fromkeys(self.going, Status.UNLOADING)

    async def memory(self, timeout_s: float) -> Memory | None:
        await self._answer(0.001)
        there = {model: self.sizes[model] for model in self.ready | self.going}
        return Memory(self.used_bytes, there if self.tells_models else {}) if self.measures else None

    @property
    def used_bytes(self) -> int:
        there = sum(self.sizes[model] for model in self.ready | self.going)
        return BASELINE_BYTES + there + self.leaked_bytes

    async def infer(self, model: str, takes_s: float) -> None:
        """Run a model, as a request would."""
        if model not in self.ready:
            self.broken.append(model)
        self.running[model] = self.running.get(model, 0) + 1
        try:
            await asyncio.sleep(takes_s)
            if model not in self.ready:
                self.broken.append(model)
        finally:
            self.running[model] -= 1

    def die(self) -> None:
        """Go away with everything in memory."""
        self.dead = True
        self.ready.clear()
        self.going.clear()
        self.leaked_bytes = 0

    async def _answer(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if self.dead:
            raise BackendLost("the server is gone")


class FakeServers(dict[str, FakeRepository]):
    """Servers by address."""

    def connect(self, address: str) -> AbstractAsyncContextManager[FakeRepository]:
        return self[address].opened()


class FakeFootprintStore:
    """Keeps footprints in memory."""

    def __init__(self, kept: Mapping[str, Footprint] | None = None) -> None:
        self.kept = dict(kept or {})

    async def read(self) -> dict[str, Footprint]:
        return dict(self.kept)

    async def write(self, footprints: Mapping[str, Footprint]) -> None:
        self.kept = dict(footprints)
