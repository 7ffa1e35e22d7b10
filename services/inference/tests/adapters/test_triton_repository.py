"""Loads and unloads against the real Triton server, and against one that fails as a test tells."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from inference.adapters.model_folder import ModelFolder
from inference.adapters.process_memory import ProcessMemory, is_local
from inference.adapters.triton_repository import TritonRepository
from inference.core.ports import BackendLost
from inference.core.residency_ports import LoadFailed, Status
from inference_fakes import FakeTriton
from inference_small_model_fakes import write_model
from servicekit.errors import TimedOut
from servicekit.testing import eventually
from tritonclient.grpc import service_pb2 as oip

MIB = 1 << 20


@pytest.fixture
async def repository(start_tritons: Any, tmp_path: Path) -> AsyncIterator[TritonRepository]:
    write_model(tmp_path, "first")
    write_model(tmp_path, "large", ballast_mib=100)
    write_model(tmp_path, "slow", load_s=2.0)
    write_model(tmp_path, "broken")
    (tmp_path / "broken/1/model.py").write_text("raise RuntimeError('no')", "utf-8")
    (server,) = start_tritons(tmp_path, models=("first",))
    address = server.address
    async with TritonRepository(address, ModelFolder(tmp_path), ProcessMemory(address)) as opened:
        yield opened


async def test_the_life_of_a_model_in_a_real_server(repository: TritonRepository) -> None:
    before = await repository.memory(5.0)
    assert before is not None
    assert set(before.models) == {"first"}
    assert 10 * MIB < before.models["first"] < before.used_bytes

    await repository.check("large")
    await repository.load("large", 30.0)
    statuses = await repository.index(5.0)
    assert statuses == {"first": Status.READY, "large": Status.READY, "slow": Status.ABSENT, "broken": Status.ABSENT}
    loaded = await repository.memory(5.0)
    assert loaded is not None
    assert 100 * MIB < loaded.models["large"] < 200 * MIB
    assert loaded.used_bytes - before.used_bytes == pytest.approx(loaded.models["large"], rel=0.2)

    await repository.unload("large", 5.0)

    async def gone() -> bool:
        memory = await repository.memory(5.0)
        assert memory is not None
        listed = (await repository.index(5.0))["large"]
        return listed is Status.ABSENT and "large" not in memory.models

    await eventually(gone, timeout_s=10.0)

    with pytest.raises(LoadFailed, match="broken could not be loaded by its server"):
        await repository.load("broken", 30.0)
    with pytest.raises(LoadFailed):
        await repository.load("unknown", 30.0)
    await repository.unload("unknown", 5.0)

    with pytest.raises(TimedOut):
        await repository.load("slow", 0.5)
    assert (await repository.index(5.0))["slow"] is Status.LOADING


class FailingTriton(FakeTriton):
    """A repository whose calls fail or hang."""

    code: grpc.StatusCode | None = None
    details = ""

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        await self._fail(context)
        models = [("a", "1", "UNAVAILABLE"), ("a", "2", "READY"), ("b", "1", "UNLOADING"), ("c", "", "")]
        answer = oip.RepositoryIndexResponse()
        for name, version, state in models:
            answer.models.add(name=name, version=version, state=state)
        return answer

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        await self._fail(context)
        return oip.RepositoryModelLoadResponse()

    async def _fail(self, context: Any) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.code is not None:
            await context.abort(self.code, self.details)


async def test_of_several_versions_the_one_that_serves_counts() -> None:
    async with FailingTriton().running() as address, TritonRepository(address) as repository:
        assert await repository.index(5.0) == {"a": Status.READY, "b": Status.UNLOADING, "c": Status.ABSENT}
        assert await repository.memory(5.0) is None


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", BackendLost),
        (grpc.StatusCode.UNAVAILABLE, "memory limit set for GPU 0 has exceeded", LoadFailed),
        (grpc.StatusCode.INTERNAL, "failed to load 'a': /srv/models/a", LoadFailed),
        (grpc.StatusCode.INVALID_ARGUMENT, "bad", LoadFailed),
    ],
)
async def test_failures_of_a_load(code: grpc.StatusCode, details: str, kind: type[Exception]) -> None:
    triton = FailingTriton()
    triton.code, triton.details = code, details
    async with triton.running() as address, TritonRepository(address) as repository:
        with pytest.raises(kind) as caught:
            await repository.load("a", 5.0)
        assert "/srv" not in str(caught.value)


async def test_a_server_that_cannot_answer_plain_questions_counts_as_down() -> None:
    triton = FailingTriton()
    triton.code = grpc.StatusCode.INTERNAL
    async with triton.running() as address, TritonRepository(address) as repository:
        with pytest.raises(BackendLost):
            await repository.index(5.0)
        assert await repository.memory(5.0) is None, "the statistics are not implemented there"


async def test_a_server_that_hangs_or_is_away_is_told_apart() -> None:
    triton = FailingTriton()
    triton.hang = True
    async with triton.running() as address, TritonRepository(address) as repository:
        with pytest.raises(TimedOut):
            await repository.load("a", 0.1)
        with pytest.raises(TimedOut):
            await repository.index(0.1)
    async with TritonRepository(address) as repository:
        with pytest.raises(BackendLost):
            await repository.index(2.0)


async def test_memory_is_measured_only_of_servers_on_this_machine() -> None:
    assert await ProcessMemory("192.0.2.1:8001").read() is None
    assert await ProcessMemory("127.0.0.1:1").read() is None
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "triton.internal", "10.0.0.1")] == [
        True,
        True,
        False,
        False,
    ]
