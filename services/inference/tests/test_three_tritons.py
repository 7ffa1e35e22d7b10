"""Three real Triton servers behind the pool: one is killed, one answers wrongly, and callers do not notice."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference.adapters.catalogue_file import read_catalogue
from inference.core.golden import Outcome
from inference.core.pool import Pool
from inference.core.replica import Replica
from inference.main import open_pool
from servicekit.errors import PenstockError, Unavailable
from servicekit.testing import caller, eventually
from tritonclient.grpc import service_pb2 as oip

CATALOGUE = """
servers: {{three: {{addresses: [{addresses}], golden_period_s: 1, slow_start_s: 1}}}}
models:
  - name: encoder
    task: embed
    triton: {{server: three, model: minilm-l6}}
    queue: {{max_concurrent: 64, max_waiting: 512}}
"""
CALLERS = 12
GOLDEN_PERIOD_S = 1.0


class Load:
    """Callers who ask one after another, and what became of their requests."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ending = False
        self.answers: list[bytes] = []
        self.errors: list[PenstockError] = []

    @property
    def asked(self) -> int:
        """How many requests have ended."""
        return len(self.answers) + len(self.errors)

    async def run(self) -> None:
        """Ask until told to end."""
        request = infer_request()
        while not self._ending:
            try:
                answer = await self._pool.infer("encoder", request)
                self.answers.append(oip.ModelInferResponse.FromString(answer).raw_output_contents[0])
            except PenstockError as error:
                self.errors.append(error)
                await asyncio.sleep(0.01)

    def end(self) -> None:
        """Let the callers finish what they ask."""
        self._ending = True

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """Keep the load up inside."""
        with caller():
            async with asyncio.TaskGroup() as callers:
                for _ in range(CALLERS):
                    callers.create_task(self.run())
                try:
                    yield
                finally:
                    self.end()


def infer_request() -> bytes:
    request = oip.ModelInferRequest(model_name="encoder")
    ids = np.array([[101, 7592, 2088, 102]], np.int64)
    for name, values in (("input_ids", ids), ("attention_mask", np.ones_like(ids))):
        request.inputs.add(name=name, datatype="INT64", shape=ids.shape)
        request.raw_input_contents.append(values.tobytes())
    written: bytes = request.SerializeToString()
    return written


@asynccontextmanager
async def pool_over(folder: Path, addresses: list[str]) -> AsyncIterator[Pool]:
    catalogue = folder / "catalogue.yaml"
    catalogue.write_text(CATALOGUE.format(addresses=", ".join(f'"{each}"' for each in addresses)), "utf-8")
    async with AsyncExitStack() as stack:
        opened = await open_pool(read_catalogue(catalogue), {}, folder, stack)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(opened.pool.watch())
            try:
                await eventually(lambda: all(each.in_rotation for each in replicas(opened.pool)), timeout_s=20)
                yield opened.pool
            finally:
                watching.cancel()


def replicas(pool: Pool) -> list[Replica]:
    served = pool.find("encoder").replicas
    assert served is not None
    return served.all()


def replica_at(pool: Pool, address: str) -> Replica:
    return next(each for each in replicas(pool) if each.address == address)


async def seconds_until(check: Callable[[], bool], timeout_s: float) -> float:
    start = time.monotonic()
    await eventually(check, timeout_s)
    return time.monotonic() - start


@pytest.mark.slow
async def test_a_killed_replica_is_ejected_at_once_and_back_only_after_its_golden_probe(
    tmp_path: Path, built_models: Path, start_tritons: Any
) -> None:
    servers = await asyncio.to_thread(start_tritons, built_models, built_models, built_models)
    async with pool_over(tmp_path, [each.address for each in servers]) as pool:
        load, victim = Load(pool), servers[1]
        replica = replica_at(pool, victim.address)
        async with load.under_way():
            await eventually(lambda: load.asked > 500, timeout_s=30)
            victim.kill()
            assert await seconds_until(lambda: not replica.in_rotation, 5) <= 1.0
            ejected_at = load.asked
            await eventually(lambda: load.asked > ejected_at + 500, timeout_s=30)
            restarted = time.time()
            victim.start()
            rotating = await _rotation_waits_for_the_golden_probe(replica)
            back_at = load.asked
            await eventually(lambda: load.asked > back_at + 500, timeout_s=30)
    assert rotating.checked_at > restarted
    assert rotating.outcome is Outcome.PASSED
    assert load.asked > 1500
    assert len(load.errors) <= 0.005 * load.asked
    assert all(isinstance(each, Unavailable) and each.retry_after_s for each in load.errors)
    assert len(set(load.answers)) == 1


async def _rotation_waits_for_the_golden_probe(replica: Replica) -> Any:
    """Watch a replica come back; return the verdict that it came back with."""
    before = replica.verdict
    end = time.monotonic() + 30
    while not replica.in_rotation:
        assert time.monotonic() < end, replica.told()
        await asyncio.sleep(0.002)
    assert replica.verdict is not None
    assert replica.verdict is not before
    return replica.verdict


@pytest.mark.slow
async def test_a_replica_that_answers_quickly_and_wrongly_is_out_within_a_probe_period_without_an_error(
    tmp_path: Path, built_models: Path, start_tritons: Any
) -> None:
    flag = tmp_path / "wrong"
    traitor_models = tmp_path / "models"
    shutil.copytree(built_models, traitor_models)
    program = traitor_models / "minilm-l6/1/model.py"
    honest = "vectors[request][row] = vector"
    text = program.read_text("utf-8")
    assert honest in text
    wrong = f"vectors[request][row] = vector[::-1] if __import__('os').path.exists({str(flag)!r}) else vector"
    program.write_text(text.replace(honest, wrong), "utf-8")
    servers = await asyncio.to_thread(start_tritons, built_models, traitor_models, built_models)
    async with pool_over(tmp_path, [each.address for each in servers]) as pool:
        load, traitor = Load(pool), replica_at(pool, servers[1].address)
        async with load.under_way():
            await eventually(lambda: load.asked > 300, timeout_s=30)
            flag.touch()
            # a probe may have just begun when the answers turned wrong
            assert await seconds_until(lambda: not traitor.in_rotation, 5) <= GOLDEN_PERIOD_S + 0.5
            await eventually(lambda: traitor.outstanding == 0, timeout_s=5)
            wrong_until, asked = len(load.answers), load.asked
            right = load.answers[0]
            await eventually(lambda: load.asked > asked + 300, timeout_s=30)
            assert set(load.answers[wrong_until + CALLERS :]) == {right}
            assert traitor.told().reason == "golden_failed"
            flag.unlink()
            await eventually(lambda: traitor.in_rotation, timeout_s=20)
    assert load.errors == []


@pytest.mark.slow
async def test_what_a_server_that_stands_still_was_asked_is_answered_by_others(
    tmp_path: Path, built_models: Path, start_tritons: Any
) -> None:
    servers = await asyncio.to_thread(start_tritons, built_models, built_models, built_models)
    async with pool_over(tmp_path, [each.address for each in servers]) as pool:
        load, still = Load(pool), replica_at(pool, servers[1].address)
        async with load.under_way():
            await eventually(lambda: load.asked > 200, timeout_s=30)
            servers[1].pause()
            await eventually(lambda: still.outstanding > 0, timeout_s=10)
            paused_at = load.asked
            await eventually(lambda: load.asked > paused_at + 300, timeout_s=10)
            assert await seconds_until(lambda: not still.in_rotation, 10) < 5.0
            await eventually(lambda: still.outstanding == 0, timeout_s=15)
            servers[1].go_on()
            await eventually(lambda: still.in_rotation, timeout_s=20)
    assert load.errors == []


@pytest.mark.slow
async def test_replicas_that_are_restarted_one_after_another_cost_no_request(
    tmp_path: Path, built_models: Path, start_tritons: Any
) -> None:
    servers = await asyncio.to_thread(start_tritons, built_models, built_models, built_models)
    async with pool_over(tmp_path, [each.address for each in servers]) as pool:
        load = Load(pool)
        async with load.under_way():
            for server in servers[:2]:
                replica = replica_at(pool, server.address)
                await asyncio.to_thread(server.stop)
                await eventually(lambda replica=replica: not replica.in_rotation, timeout_s=5)  # type: ignore[misc]
                server.start()
                await eventually(lambda replica=replica: replica.in_rotation, timeout_s=30)  # type: ignore[misc]
            asked = load.asked
            await eventually(lambda: load.asked > asked + 100, timeout_s=30)
    assert load.errors == []
    assert load.asked > 500
