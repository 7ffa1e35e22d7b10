"""Three real Triton servers with memory for two models each, and eight models that are asked for."""

import asyncio
import os
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference.adapters.catalogue_file import read_catalogue
from inference.core.pool import Pool
from inference.core.residency_measures import LOADS
from inference.main import open_pool
from inference_small_model_fakes import write_model
from servicekit.errors import PenstockError, Unavailable
from servicekit.testing import caller, eventually
from tritonclient.grpc import service_pb2 as oip

MIB = 1 << 20
MODELS = tuple(f"m{number}" for number in range(8))
REQUESTS = 400
"""Triton takes a second to unload a Python model: ten thousand are left to `platform-tests/bench/residency.py`."""
CALLERS = 12
BALLAST_MIB = 60
BUDGET_BYTES = 250 * MIB
"""Room for two: a process with numpy takes some 35 MiB beside its ballast."""
SERVER = """
servers:
  small:
    addresses: [{addresses}]
    residency: {{budget_bytes: {budget}, assumed_bytes: {assumed}, minimum_s: 0.2, spread_at: 64,
                 repository: repository, footprints: footprints.json{more}}}
models:
"""
MODEL = """
  - name: {name}
    task: tensor
    triton: {{server: small, model: {name}}}
    queue: {{max_concurrent: 64, max_waiting: 512}}
    timeout_s: 30
"""


class Site:
    """A folder with a repository and a catalogue, and the pool over servers of it."""

    def __init__(self, folder: Path, pool: Pool) -> None:
        self.folder = folder
        self.pool = pool

    async def ask(self, name: str, number: int = 1) -> int:
        """Return what the model makes of a number."""
        request = oip.ModelInferRequest(model_name=name)
        request.inputs.add(name="x", datatype="INT64", shape=[1])
        request.raw_input_contents.append(np.array([number], np.int64).tobytes())
        answer = oip.ModelInferResponse.FromString(await self.pool.infer(name, request.SerializeToString()))
        assert answer.model_name == name
        return int(np.frombuffer(answer.raw_output_contents[0], np.int64)[0])


@asynccontextmanager
async def site(folder: Path, servers: list[Any], models: tuple[str, ...], more: str = "") -> AsyncIterator[Site]:
    """Open the pool of a catalogue over these servers."""
    addresses = ", ".join(f'"{server.address}"' for server in servers)
    text = SERVER.format(addresses=addresses, budget=BUDGET_BYTES, assumed=100 * MIB, more=more)
    path = folder / "catalogue.yaml"
    path.write_text(text + "".join(MODEL.format(name=name) for name in models), "utf-8")
    async with AsyncExitStack() as stack:
        opened = await open_pool(read_catalogue(path), {}, folder, stack)
        tasks = [asyncio.create_task(each()) for each in (opened.pool.watch, *opened.background)]
        try:
            with caller():
                yield Site(folder, opened.pool)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def start_small(start_tritons: Callable[..., list[Any]], repository: Path, count: int) -> list[Any]:
    """Start servers that have loaded one model which the catalogue does not know: it belongs to their baseline."""
    write_model(repository, "unmanaged")
    return start_tritons(*[repository] * count, models=("unmanaged",))


def loads() -> dict[str, float]:
    """Return how many loads there were, per model."""
    samples = (sample for metric in LOADS.collect() for sample in metric.samples)
    return {each.labels["model"]: each.value for each in samples if each.name.endswith("_count")}


@pytest.mark.slow
async def test_a_zipf_mix_over_three_servers_fails_no_request_and_loads_once_per_burst(
    start_tritons: Callable[..., list[Any]], tmp_path: Path
) -> None:
    for offset, name in enumerate(MODELS):
        write_model(tmp_path / "repository", name, offset=offset, ballast_mib=BALLAST_MIB)
    servers = start_small(start_tritons, tmp_path / "repository", 3)
    draw = random.Random(7)
    trace = draw.choices(MODELS, [1 / rank for rank in range(1, 9)], k=REQUESTS)
    before = Counter(loads())
    errors: list[PenstockError] = []

    async with site(tmp_path, servers, MODELS) as there:
        burst = await asyncio.gather(*(there.ask("m3", number) for number in range(40)))
        assert burst == [number + 3 for number in range(40)]
        assert Counter(loads()) - before == Counter({"m3": 1})

        async def ask_all(mine: list[str]) -> None:
            for name in mine:
                try:
                    assert await there.ask(name, 10) == 10 + MODELS.index(name)
                except Unavailable as error:
                    errors.append(error)

        await asyncio.gather(*(ask_all(trace[first::CALLERS]) for first in range(CALLERS)))
    loaded = sum((Counter(loads()) - before).values())
    assert errors == []
    assert 1 - loaded / len(trace) > 0.8, f"{loaded} loads"
    assert (tmp_path / "footprints.json").exists()


@pytest.mark.slow
async def test_wrong_files_a_dead_server_and_one_that_comes_back(
    start_tritons: Callable[..., list[Any]], tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    for offset, name in enumerate(("good", "bad", "raises")):
        write_model(repository, name, offset=offset)
    (repository / "bad/1/model.py").unlink()
    (repository / "raises/1/model.py").write_text("raise RuntimeError('no')", "utf-8")
    servers = start_small(start_tritons, repository, 2)
    async with site(tmp_path, servers, ("good", "bad", "raises"), ", pinned: [good]") as there:
        assert await there.ask("good") == 1
        with pytest.raises(Unavailable, match=r"bad: 1/model\.py is not there") as caught:
            await there.ask("bad")
        assert caught.value.reason == "not_loaded"
        with pytest.raises(Unavailable, match="raises could not be loaded") as caught:
            await there.ask("raises")
        assert str(tmp_path) not in caught.value.message

        servers[0].kill()
        for number in range(50):
            assert await there.ask("good", number) == number
        servers[1].kill()
        servers[0].start()

        async def answers() -> bool:
            try:
                return await there.ask("good") == 1
            except Unavailable as error:
                assert error.retry_after_s is not None
                return False

        await eventually(answers, timeout_s=20.0)


@pytest.mark.slow
async def test_a_graph_that_is_not_what_was_built_serves_nobody_and_disturbs_nobody(
    start_tritons: Callable[..., list[Any]], built_models: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    write_model(repository, "good")
    refusals = {"cut": "is cut off", "garbled": "is no ONNX model", "torn": "not be loaded", "wrong": "answers wrongly"}
    graphs = {name: repository / name / "1/model.onnx" for name in refusals}
    for name in graphs:
        shutil.copytree(built_models / "minilm-l6", repository / name)
    os.truncate(graphs["cut"], graphs["cut"].stat().st_size // 2)
    for name, at, size in (("garbled", 0, 100), ("torn", 12_000_000, 1_000_000), ("wrong", 500_000, 9_000_000)):
        with graphs[name].open("r+b") as file:
            file.seek(at)
            file.write(b"7" * size)
    servers = start_small(start_tritons, repository, 1)
    async with site(tmp_path, servers, ("good", *refusals), ", pinned: [good]") as there:
        for name, why in refusals.items():
            with pytest.raises(Unavailable, match=why) as caught:
                await there.ask(name)
            assert caught.value.reason == "not_loaded"
            assert str(tmp_path) not in caught.value.message
            assert await there.ask("good", 7) == 7
