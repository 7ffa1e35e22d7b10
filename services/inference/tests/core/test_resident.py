"""Requests on models that are loaded on request: each attempt holds a lease."""

import itertools
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any

import pytest
from inference.core.ports import BackendLost, ModelState
from inference.core.replicas import Replicas
from inference.core.replicated import ReplicatedTensors
from inference.core.resident import Residence, prove
from inference_replica_fakes import CHECKED, Bench, benches
from servicekit.errors import InvalidInput, PenstockError, Unavailable


class FakeLeases:
    """Gives leases at these addresses, one after another, and the last for ever."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.held = 0
        self.told: list[str] = []
        self.asked: list[str] = []

    def lease(self, model: str, wait_s: float) -> "FakeLeases":
        self.asked.append(model)
        return self

    async def __aenter__(self) -> str:
        self.held += 1
        return self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.held -= 1

    def missing(self, model: str, address: str) -> None:
        self.told.append(f"missing {model} {address}")

    def doubted(self, model: str, address: str) -> None:
        self.told.append(f"doubted {model} {address}")

    def lost(self, address: str) -> None:
        self.told.append(f"lost {address}")


async def resident(leases: FakeLeases) -> tuple[ReplicatedTensors, Replicas, list[Bench]]:
    replicas, made = await benches("a:1", "b:1")
    return ReplicatedTensors(Residence(leases, "there", replicas)), replicas, made


async def test_goes_where_the_model_is_and_holds_it_there_meanwhile() -> None:
    leases = FakeLeases("b:1")
    tensors, _, (one, two) = await resident(leases)
    held: list[int] = []

    class Noting:
        async def infer(self, _request: bytes, _timeout_s: float) -> bytes:
            held.append(leases.held)
            return b"ok"

    two.replica.backend = type(two.replica.backend)(tensors=Noting(), prober=two.prober)  # type: ignore[arg-type]
    assert await tensors.infer(b"?", 5.0) == b"ok"
    assert (held, leases.held, leases.asked, one.tensors.requests) == ([1], 0, ["there"], [])
    assert two.server.outstanding == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BackendLost("x"), "lost a:1"),
        (Unavailable("x", reason="not_loaded"), "missing there a:1"),
    ],
    ids=["lost", "missing"],
)
async def test_what_the_servers_say_is_passed_on_and_the_next_lease_tried(error: PenstockError, told: str) -> None:
    leases = FakeLeases("a:1", "b:1")
    tensors, _, (one, _two) = await resident(leases)
    one.tensors.error = error
    assert await tensors.infer(b"?", 5.0) == b"b:1"
    assert (leases.told, leases.held) == ([told], 0)


async def test_a_wrong_request_is_not_tried_again() -> None:
    leases = FakeLeases("a:1")
    tensors, _, (one, _two) = await resident(leases)
    one.tensors.error = InvalidInput("x")
    with pytest.raises(InvalidInput):
        await tensors.infer(b"?", 5.0)
    assert (len(one.tensors.requests), leases.told, leases.held) == (1, [], 0)


async def test_three_attempts_are_all_there_are() -> None:
    leases = FakeLeases("a:1")
    tensors, _, (one, _two) = await resident(leases)
    one.tensors.error = Unavailable("x", reason="not_loaded")
    with pytest.raises(Unavailable):
        await tensors.infer(b"?", 5.0)
    assert (len(one.tensors.requests), leases.held) == (3, 0)


async def test_a_replica_whose_answers_are_wrong_serves_nobody_although_it_holds_the_model() -> None:
    leases = FakeLeases("a:1")
    tensors, _, (one, _two) = await resident(leases)
    one.arrays.factor = 9.0
    await one.check(after_s=10.0)
    with pytest.raises(Unavailable) as caught:
        await tensors.infer(b"?", 5.0)
    assert (caught.value.reason, one.tensors.requests) == ("backend_failed", [])


async def test_a_replica_that_was_not_looked_at_since_the_load_is_looked_at_first() -> None:
    leases = FakeLeases("a:1")
    tensors, _, (one, _two) = await resident(leases)
    one.prober.state = ModelState(ready=False, reason="not_loaded")
    await one.check()
    one.prober.state = CHECKED
    assert await tensors.infer(b"?", 5.0) == b"a:1"


async def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    leases = FakeLeases("a:1", "b:1")
    _, replicas, _ = await resident(leases)

    async def broken(_replica: Any, _left_s: float) -> AsyncGenerator[bytes, None]:
        yield b"half"
        raise BackendLost("x")

    got: list[bytes] = []
    with pytest.raises(BackendLost):
        async for part in Residence(leases, "there", replicas).streamed(broken, 5.0):
            got.append(part)  # noqa: PERF401 - what came before the failure is looked at
    assert (got, leases.told, leases.held) == ([b"half"], ["lost a:1"], 0)


async def test_a_model_that_is_loaded_nowhere_is_listed_as_ready_while_a_server_lives() -> None:
    bench = Bench(state=ModelState(ready=False, reason="not_loaded"))
    replicas = Replicas("held", held=True)
    replicas.join(bench.replica)
    await bench.check()
    assert replicas.state.ready
    bench.prober.state = ModelState(ready=False, reason="backend_failed")
    await bench.check()
    assert not replicas.state.ready


async def test_a_load_is_proven_by_golden_answers() -> None:
    bench = Bench()
    await bench.check()
    assert await prove(bench.replica) == ""
    assert bench.arrays.asked == 2
    bench.arrays.factor = 9.0
    assert "double: y" in await prove(bench.replica)
    bench.prober.state = ModelState(ready=False, reason="golden_invalid", detail="cases[0]: no")
    assert await prove(bench.replica) == "cases[0]: no"


async def test_a_server_that_dies_while_its_model_is_proven_is_given_up() -> None:
    bench = Bench()
    await bench.check()
    bench.prober.state = ModelState(ready=False, reason="backend_failed")
    moments = itertools.count()
    with pytest.raises(BackendLost):
        await prove(bench.replica, lambda: float(next(moments)))
