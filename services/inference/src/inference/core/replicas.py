"""The replicas of a model: which of them may take a request, and which one does."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from servicekit.errors import Unavailable

from inference.core.breaker import outliers
from inference.core.choice import kept_together, less_loaded_of_two
from inference.core.execution import Execution
from inference.core.ports import (
    BACKEND_FAILED,
    DRAINING,
    GOLDEN_FAILED,
    GOLDEN_INVALID,
    LOADING,
    NOT_LOADED,
    ModelState,
)
from inference.core.replica import Replica
from inference.core.residency_measures import ModelMemory

RETRY_AFTER_S: Final = 1.0
ASK_TIMEOUT_S: Final = 2.0
COMPARE_PERIOD_S: Final = 1.0
LEFT_AFTER_A_PERIOD: Final = 0.8
"""What a counted call weighs one period later: after 10 s it is a tenth."""
TOLD_FIRST: Final = (GOLDEN_FAILED, GOLDEN_INVALID, LOADING, NOT_LOADED, DRAINING, BACKEND_FAILED)
ON_THE_WIRE: Final = {NOT_LOADED: NOT_LOADED, LOADING: LOADING, "not_probed": LOADING, DRAINING: DRAINING}
"""Reasons that callers are told; every other one is backend_failed."""
MANY: Final = len(TOLD_FIRST)
NO_REPLICA: Final = ModelState(ready=False, reason=NOT_LOADED, detail="there is no replica")


class Replicas:
    """The replicas of one model, by address.

    A model that is `held` is loaded when a request comes. Only replicas of one digest serve at a time: answers of two
    versions of a model must not be mixed, vectors least of all.
    """

    def __init__(
        self,
        model: str,
        *,
        held: bool = False,
        random_number: Callable[[], float] = random.random,
    ) -> None:
        self.model = model
        self._held = held
        self.state = NO_REPLICA
        self.changed: Callable[[], None] = _nothing
        self.memory: Callable[[], ModelMemory] | None = None
        """Tells of its place in the servers' memory, if it is loaded on request."""
        self._declared = NO_REPLICA
        self._random = random_number
        self._all: dict[str, Replica] = {}
        self._usable: tuple[Replica, ...] = ()
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def all(self) -> list[Replica]:
        """Return every replica, ordered by address."""
        return [self._all[address] for address in sorted(self._all)]

    async def execution(self) -> Execution | None:
        """Return what its servers say they have done with it, None when none says anything."""
        readers = [each.backend.executions for each in self._all.values() if each.sound and each.backend.executions]
        told = await asyncio.gather(*(reader.read(ASK_TIMEOUT_S) for reader in readers))
        found = [each for each in told if each is not None]
        return Execution.sum(found) if found else None

    def join(self, replica: Replica) -> None:
        """Take in a replica; it gets requests once it has shown that it can serve them."""
        self._all[replica.address] = replica
        replica.changed, replica.held = self.refresh, self._held
        if self._tasks is not None:
            self._watchers[replica.address] = self._tasks.create_task(replica.watch())
        self.refresh()

    def leave(self, address: str) -> None:
        """Send nothing new to an address; what runs there is left to end."""
        replica = self._all.pop(address, None)
        if replica is None:
            return
        replica.changed = _nothing
        replica.retire()
        replica.forget()
        watcher = self._watchers.pop(address, None)
        if watcher is not None:
            watcher.cancel()
        self.refresh()

    def choose(self, key: str = "") -> Replica:
        """Return the replica that a request goes to, the same for the same key; raise Unavailable without one."""
        usable = self._usable
        if len(usable) == 1:
            return usable[0]
        if not usable:
            raise self._unavailable()
        if key:
            return kept_together(usable, key, self._random)
        return less_loaded_of_two(usable, self._random)

    def another(self, than: Replica) -> Replica | None:
        """Return a replica for a second attempt, if there is one besides the first."""
        others = [each for each in self._usable if each is not than]
        return less_loaded_of_two(others, self._random) if others else None

    def declare(self, version: str, digest: str) -> None:
        """Say what a model that is loaded on request will be; what a server tells of it once it is loaded counts."""
        self._declared = replace(self._declared, version=version, digest=digest)
        self.refresh()

    def at(self, address: str) -> Replica | None:
        """Return the replica at an address, if there is one."""
        return self._all.get(address)

    def refresh(self) -> None:
        """Work out again who may get requests, and what the model's state is."""
        replicas = self.all()
        self._keep_alike(replicas)
        rotating = tuple(each for each in replicas if each.in_rotation)
        # where every breaker is open, a server that answers its probes right is a better bet than none
        self._usable = rotating or tuple(each for each in replicas if each.sound and not each.apart)
        self.state = self._state(replicas)
        self.changed()

    async def watch(self) -> None:
        """Look at all replicas again and again and compare them with each other, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for replica in self.all():
                self._watchers[replica.address] = tasks.create_task(replica.watch())
            try:
                while True:
                    await asyncio.sleep(COMPARE_PERIOD_S)
                    self.compare()
            finally:
                self._tasks = None

    def compare(self) -> None:
        """Take those out of rotation whose calls fail far more often than those of the others."""
        replicas = self.all()
        worst = outliers([each.breaker for each in replicas])
        for replica in replicas:
            if replica.breaker in worst:
                replica.outlies()
            replica.breaker.age(LEFT_AFTER_A_PERIOD)

    def _keep_alike(self, replicas: list[Replica]) -> None:
        """Serve with the digest that most sound replicas have, and stay with it where two have as many."""
        digests = Counter(each.state.digest for each in replicas if each.sound)
        if not digests:
            return
        kept = max(digests, key=lambda digest: (digests[digest], digest == self.state.digest, digest))
        for each in replicas:
            each.stand(apart=each.sound and each.state.digest != kept)

    def _state(self, replicas: list[Replica]) -> ModelState:
        """Return the state of those who serve, or the reason that says most; version and digest outlast absence."""
        if self._usable:
            return self._usable[0].state
        told = [each.told() for each in replicas]
        if not told:
            return replace(NO_REPLICA, version=self.state.version, digest=self.state.digest)
        if self._held and any(each.reason in (NOT_LOADED, LOADING) for each in told):
            known = next((each for each in told if each.digest or each.version), self._declared)
            return replace(known, ready=True, reason="", detail="loaded on request")
        return min(told, key=lambda state: TOLD_FIRST.index(state.reason) if state.reason in TOLD_FIRST else MANY)

    def _unavailable(self) -> Unavailable:
        reason = ON_THE_WIRE.get(self.state.reason, BACKEND_FAILED)
        return Unavailable(f"no replica of {self.model} is ready", reason=reason, retry_after_s=RETRY_AFTER_S)


def _nothing() -> None:
    """Listen to nothing."""
