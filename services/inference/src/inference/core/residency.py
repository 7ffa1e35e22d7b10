"""Keeps models in the memory of many servers: who needs one holds a lease of it, and others make room for it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from servicekit.errors import Unavailable

from inference.core.caretaker import LOOK_PERIOD_S, Caretaker, until_set
from inference.core.copies import Copies
from inference.core.demands import Demand
from inference.core.device import Copy, Device, Stage
from inference.core.footprints import Footprints
from inference.core.mover import Mover, Prove, unproven
from inference.core.planner import Planner
from inference.core.policy import Policy
from inference.core.ports import LOADING
from inference.core.residency_measures import ModelMemory, ResidencyMeasures
from inference.core.residency_ports import Connect, LoadFailed

PLAN_PERIOD_S: Final = 0.25
SOONEST_RETRY_S: Final = 1.0


class Lease:
    """A model that stays where it is inside an `async with`, which yields the address; a class, for speed."""

    __slots__ = ("_copy", "_model", "_residency", "_wait_s")

    def __init__(self, residency: "Residency", model: str, wait_s: float) -> None:
        """Take whose lease it is and how many seconds it may be waited for."""
        self._residency = residency
        self._model = model
        self._wait_s = wait_s

    async def __aenter__(self) -> str:
        """Return the address of a server that has the model; raise as `Residency.lease` says."""
        residency = self._residency
        copy = residency.held(self._model)
        if copy is None:
            copy = await residency.wait_for(self._model, self._wait_s)
        self._copy = copy
        return copy.address

    async def __aexit__(self, *_: object) -> None:
        """Give it back."""
        self._residency.release(self._copy)


class Residency:
    """The models of one group of servers, where they are, and what is to be loaded next."""

    def __init__(
        self,
        policy: Policy,
        footprints: Footprints,
        connect: Connect,
        prove: Prove = unproven,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what to keep and how to reach it; `prove` says what is wrong with a model that was just loaded."""
        self._policy = policy
        self._footprints = footprints
        self._clock = clock
        self._measures = ResidencyMeasures()
        self._copies = Copies(frozenset(policy.pinned), policy.minimum_s)
        self._planner = Planner(policy, self._copies, footprints, clock)
        mover = Mover(footprints, policy.patience, prove, self._measures, clock)
        self._caretaker = Caretaker(policy, self._copies, self._planner, mover, footprints, connect)
        self._changed = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._hits = self._misses = 0

    def devices(self) -> list[Device]:
        """Return the servers with what is in their memory, ordered by address."""
        return [self._copies.devices[address] for address in sorted(self._copies.devices)]

    def memory_of(self, model: str) -> ModelMemory:
        """Return what a model takes, where it is and what became of it."""
        tally = replace(self._measures.tallies[model])
        return ModelMemory(self._footprints.bytes_of(model), len(self._copies.open(model)), tally)

    def lease(self, model: str, wait_s: float) -> Lease:
        """Hold a model inside an `async with`, which yields the address of a server that has it in memory.

        Where no server has it, it is loaded, and waited for at most `wait_s` seconds. Raises Unavailable with reason
        loading (it will be there later), not_loaded (its load fails) or backend_failed (no server answers).
        """
        return Lease(self, model, wait_s)

    def held(self, model: str) -> Copy | None:
        """Take a lease on the resident copy that has the fewest, or return None; `release` gives it back."""
        copies = self._copies.open(model)
        if not copies:
            return None
        copy = copies[0] if len(copies) == 1 else min(copies, key=_leases)
        copy.leases += 1
        self._hits += 1
        self._measures.tallies[model].hits += 1
        self._copies.popularity.count(model)
        if copy.leases > self._policy.spread_at and len(copies) < len(self._copies.devices):
            self._planner.spread(model)
            self._changed.set()
        return copy

    def release(self, copy: Copy) -> None:
        """Give a lease back."""
        copy.leases -= 1
        if not copy.leases and self._planner.busy:
            self._changed.set()

    async def wait_for(self, model: str, wait_s: float) -> Copy:
        """Have a model loaded and return a copy with a lease on it; raise as `lease` says."""
        if model not in self._policy.models:
            raise LoadFailed(f"{model} is not among the models of its servers")
        self._misses += 1
        self._measures.tallies[model].misses += 1
        self._copies.popularity.count(model)
        demand = self._planner.demand(model)
        demand.extra = False
        self._changed.set()
        expected_s = self._planner.expected_s(demand)
        demand.wanted_until(self._clock() + max(wait_s, 2 * expected_s))
        if wait_s < expected_s:
            raise _still_loading(model, expected_s)
        turn: asyncio.Future[Copy] = asyncio.get_running_loop().create_future()
        demand.waiters.append(turn)
        try:
            async with asyncio.timeout(wait_s):
                return await turn
        except TimeoutError as error:
            self._leave(demand, turn)
            raise _still_loading(model, expected_s) from error
        except asyncio.CancelledError:
            self._leave(demand, turn)
            raise

    def joined(self, address: str) -> None:
        """Take in a server; it gets nothing before it has answered."""
        if address not in self._copies.devices:
            device = Device(address, self._policy.budget_bytes, self._policy.leak_limit_bytes)
            self._copies.devices[address] = device
            self._start(device)

    def left(self, address: str) -> None:
        """Drop a server; the leases there are left to end."""
        device = self._copies.devices.pop(address, None)
        if device is None:
            return
        task = self._serving.pop(address, None)
        if task is not None:
            task.cancel()
        self._planner.down(device)
        self._measures.forget(address)
        self._changed.set()

    def missing(self, model: str, address: str) -> None:
        """Hear that a server does not have a model that it should have, and look there at once."""
        device = self._copies.devices.get(address)
        copy = device.copies.get(model) if device else None
        if device is not None and copy is not None and copy.stage is Stage.READY:
            copy.stage = Stage.GONE
            del device.copies[model]
            self._copies.refresh(model)
            device.wake.set()

    def doubted(self, model: str, address: str) -> None:
        """Hear that a model is out of rotation at an address: it gets no lease before it is proven right again."""
        device = self._copies.devices.get(address)
        copy = device.copies.get(model) if device else None
        if device is not None and copy is not None and copy.stage is Stage.READY:
            copy.stage = Stage.DOUBTED
            self._copies.refresh(model)
            device.wake.set()

    def lost(self, address: str) -> None:
        """Hear that a server has died; it gets nothing before it has answered again."""
        device = self._copies.devices.get(address)
        if device is not None and device.move is None:
            self._planner.down(device)
            device.wake.set()

    async def run(self) -> None:
        """Load what is wanted and look after the servers, until cancelled."""
        await self._footprints.open()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                for device in self._copies.devices.values():
                    self._start(device)
                while True:
                    self._changed.clear()
                    self._planner.plan()
                    self._count()
                    await self._footprints.keep()
                    await until_set(self._changed, PLAN_PERIOD_S if self._planner.busy else LOOK_PERIOD_S)
            finally:
                self._tasks = None
                self._serving.clear()

    def _start(self, device: Device) -> None:
        if self._tasks is not None:
            serving = self._caretaker.serve(device, self._changed.set)
            self._serving[device.address] = self._tasks.create_task(serving)

    def _leave(self, demand: Demand, turn: asyncio.Future[Copy]) -> None:
        """Stop waiting; a lease that was handed over in the same moment is given back."""
        if turn in demand.waiters:
            demand.waiters.remove(turn)
        if not turn.cancelled() and turn.done() and turn.exception() is None:
            self.release(turn.result())

    def _count(self) -> None:
        """Bring the metrics up to date, which the leases themselves leave to this."""
        self._measures.leased(self._hits, self._misses)
        self._hits = self._misses = 0


def _leases(copy: Copy) -> int:
    return copy.leases


def _still_loading(model: str, expected_s: float) -> Unavailable:
    return Unavailable(f"{model} is being loaded", reason=LOADING, retry_after_s=max(SOONEST_RETRY_S, expected_s))
