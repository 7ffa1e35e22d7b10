"""Fakes for replicas: a clock that a test moves, a model on arrays, and replicas that are there already."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import numpy as np
from inference.core.execution import Execution
from inference.core.golden_cases import Array, Expected, Golden, TensorCase
from inference.core.ports import ModelState
from inference.core.replica import Backend, Replica, Server, Timing
from inference.core.replicas import Replicas
from inference_fakes import FakeProber, FakeTensors

GOLDEN = Golden(
    [
        TensorCase(
            "double",
            {"x": np.array([1.0, 2.0], np.float32)},
            {"y": Expected(np.array([2.0, 4.0], np.float32), atol=0.01)},
        )
    ]
)
READY = ModelState(ready=True, version="1", digest="sha256:ab")
CHECKED = ModelState(ready=True, version="1", digest="sha256:ab", golden=GOLDEN)
DOWN = ModelState(ready=False, reason="backend_failed")


class FakeClock:
    """Stands still until it is moved; seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeArrays:
    """Doubles its input, times what a test makes of `factor`; raises `error` when there is one."""

    def __init__(self) -> None:
        self.factor = 2.0
        self.error: Exception | None = None
        self.asked = 0

    async def run(self, inputs: Mapping[str, Array], timeout_s: float) -> Mapping[str, Array]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {"y": inputs["x"] * np.float32(self.factor)}


class FakeExecutions:
    """Tells what it is made to tell."""

    def __init__(self, told: Execution | None) -> None:
        self.told = told

    async def read(self, timeout_s: float) -> Execution | None:
        return self.told


class FakeAddresses:
    """Yields the addresses it was given."""

    def __init__(self, *addresses: frozenset[str]) -> None:
        self.addresses = addresses

    async def watch(self) -> AsyncGenerator[frozenset[str], None]:
        for each in self.addresses:
            yield each


class FakeConnection:
    """Notes when it is closed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = False
        self.resets = 0

    async def close(self) -> None:
        self.closed = True

    async def reset(self) -> None:
        self.resets += 1


class Bench:
    """A replica with all its fakes at hand."""

    def __init__(self, address: str = "a:1", state: ModelState = CHECKED, **timing: float) -> None:
        self.clock = FakeClock()
        self.prober = FakeProber(state)
        self.arrays = FakeArrays()
        self.tensors = FakeTensors(answer=address.encode())
        self.server = Server(address)
        self.executions = FakeExecutions(Execution(4, 2, {1: 1, 3: 1}))
        backend = Backend(tensors=self.tensors, prober=self.prober, arrays=self.arrays, executions=self.executions)
        self.replica = Replica(
            f"model of {id(self)}",
            self.server,
            backend,
            timing=Timing(**timing),
            clock=self.clock,
            wall_clock=self.clock,
        )

    async def check(self, after_s: float = 0.0) -> None:
        """Let some time pass and have the replica look at itself."""
        self.clock.now += after_s
        await self.replica.check()


async def benches(*addresses: str, state: ModelState = CHECKED, **settings: Any) -> tuple[Replicas, list[Bench]]:
    """Return replicas at these addresses that have been found good."""
    made = [Bench(address, state) for address in addresses]
    replicas = Replicas(f"model {id(made)}", **settings)
    for each in made:
        replicas.join(each.replica)
        await each.check()
    for each in made:
        await each.check(after_s=60.0)
    return replicas, made
