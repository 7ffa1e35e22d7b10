"""Large tensors to a real Triton of this machine: right when callers leave, memory is full, and Triton is killed."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference.adapters.catalogue_file import read_catalogue
from inference.adapters.shared_tensors import SHARED, WIRE
from inference.adapters.tensor_memory import IN_USE, TensorMemory
from inference.api.tensors import tensor_service
from inference.main import open_pool
from servicekit.errors import TimedOut, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import caller, eventually, serving
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

VALUES = 400_000
CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_INT32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_INT64 dims: [ 3 ] } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
"""
MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        found = [pb_utils.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        time.sleep(0.01)
        told = [np.array([x.min(), x.max(), x.sum(dtype=np.int64)]) for x in found]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", each)]) for each in told]
"""
CATALOGUE = """
servers: {{one: {{address: "{address}", golden_period_s: 1, slow_start_s: 1}}}}
models:
  - {{name: wide, task: tensor, triton: {{server: one, model: wide}}, queue: {{max_concurrent: 16, max_waiting: 64}}}}
"""


class Asker:
    """Asks for the least, the greatest and the sum of numbers that are all the same, and checks what is told."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub: Any = oip_grpc.GRPCInferenceServiceStub(channel.grpc)
        self.ended: Counter[str] = Counter()

    async def ask(self, number: int, timeout_s: float = 20) -> None:
        request = oip.ModelInferRequest(model_name="wide")
        request.inputs.add(name="x", datatype="INT32", shape=[VALUES])
        request.raw_input_contents.append(np.full(VALUES, number, np.int32).tobytes())
        try:
            answer = await self._channel.call(self._stub.ModelInfer, request, timeout_s=timeout_s)
        except (Unavailable, TimedOut) as error:
            self.ended[type(error).__name__] += 1
            return
        told = np.frombuffer(answer.raw_output_contents[0], np.int64).tolist()
        self.ended["right" if told == [number, number, number * VALUES] else f"wrong: {number} {told}"] += 1


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "wide" / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(CONFIG, "utf-8")
    (folder / "model.py").write_text(MODEL, "utf-8")
    return tmp_path / "models"


@asynccontextmanager
async def pool(address: str, folder: Path, memory: TensorMemory) -> AsyncIterator[Channel]:
    path = folder / "catalogue.yaml"
    path.write_text(CATALOGUE.format(address=address), "utf-8")
    async with AsyncExitStack() as stack:
        opened = (await open_pool(read_catalogue(path), {}, folder, stack)).pool
        watching = asyncio.create_task(opened.watch())
        stack.callback(watching.cancel)
        await eventually(lambda: opened.state("wide").ready, timeout_s=20)
        service = tensor_service(opened, memory.take)
        where = await stack.enter_async_context(serving(service, inner=True))
        yield await stack.enter_async_context(Channel(where))


async def test_every_answer_is_to_its_own_tensor_whoever_leaves(
    repository: Path, start_tritons: Any, tmp_path: Path
) -> None:
    (triton,) = start_tritons(repository, models=("wide",))
    shared, wire, chance = SHARED._value.get(), WIRE._value.get(), random.Random(1)
    with TensorMemory.open(8 << 20) as memory, caller():
        async with pool(triton.address, tmp_path, memory) as channel:
            asker = Asker(channel)
            for _ in range(6):
                asking = [asyncio.create_task(asker.ask(number, chance.choice([20, 20, 0.05]))) for number in range(20)]
                await asyncio.sleep(0.1)
                for task in asking[::7]:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
            await eventually(lambda: IN_USE._value.get() == 0)
            await asker.ask(77)
    assert set(asker.ended) <= {"right", "TimedOut", "Unavailable"}
    assert asker.ended["right"] > 40
    assert SHARED._value.get() > shared
    assert WIRE._value.get() == wire  # what found no room never was in the memory


async def test_a_triton_that_was_killed_and_is_back_reads_again(
    repository: Path, start_tritons: Any, tmp_path: Path
) -> None:
    (triton,) = start_tritons(repository, models=("wide",))
    with TensorMemory.open(64 << 20) as memory, caller():
        async with pool(triton.address, tmp_path, memory) as channel:
            asker, ending = Asker(channel), asyncio.Event()

            async def keep_asking(number: int) -> None:
                while not ending.is_set():
                    await asker.ask(number)
                    await asyncio.sleep(0.01)

            asking = [asyncio.create_task(keep_asking(number)) for number in range(6)]
            await eventually(lambda: asker.ended["right"] > 20, timeout_s=20)
            await asyncio.to_thread(triton.kill)
            await eventually(lambda: asker.ended["Unavailable"] > 5, timeout_s=20)
            triton.start()
            await asyncio.to_thread(triton.wait_until_ready)
            before, shared = asker.ended["right"], SHARED._value.get()
            await eventually(lambda: asker.ended["right"] > before + 20, timeout_s=20)
            ending.set()
            await asyncio.gather(*asking)
            assert SHARED._value.get() > shared
            await eventually(lambda: IN_USE._value.get() == 0)
    assert set(asker.ended) <= {"right", "TimedOut", "Unavailable"}
