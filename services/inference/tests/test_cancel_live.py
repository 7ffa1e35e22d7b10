"""Callers who leave, through the whole service and a real Triton: slots are free at once, and the engine stops."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from inference.adapters.catalogue_file import read_catalogue
from inference.api.servicer import inference_service
from inference.core.served_model import ServedModel
from inference.main import open_pool
from inference_engine_fakes import Script, triton_counters, write_engines
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from servicekit.testing import caller, eventually, serving

STREAMS = 100
FREED_S = 1.0
CATALOGUE = """
servers: {{engines: {{address: "{address}"}}}}
models:
  - name: vllm
    task: generate
    triton: {{server: engines, model: vllm}}
    queue: {{max_concurrent: {streams}, max_waiting: 0}}
    timeout_s: 120
  - name: bls
    task: generate
    triton: {{server: engines, model: bls, tensors: tensorrt_llm}}
    sampling: {{max_tokens: 100000}}
    queue: {{max_concurrent: {streams}, max_waiting: 0}}
    timeout_s: 120
"""


@dataclass(frozen=True, slots=True)
class Running:
    """The service: its stub, what it knows of the model, and where Triton's metrics are."""

    stub: Any
    metadata: tuple[tuple[str, str], ...]
    served: ServedModel
    metrics_url: str

    def ask(self, script: Script) -> Any:
        """Return a stream that has been asked for."""
        name = self.served.model.name
        request = pb.GenerateRequest(model=name, messages=[pb.Message(role="user", content=script.prompt())])
        return self.stub.Generate(request, metadata=self.metadata)

    async def tokens(self) -> int:
        """Return how many tokens the engine has made."""
        return (await triton_counters(self.metrics_url, self.served.model.name)).tokens

    async def idle(self) -> bool:
        """Tell whether the engine runs nothing."""
        return (await triton_counters(self.metrics_url, self.served.model.name)).running == 0


@pytest.fixture
def engines(tmp_path: Path, triton_process: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    server = triton_process(write_engines(tmp_path / "repository"), tmp_path / "repository")
    try:
        server.start()
        server.wait_until_ready()
        yield server.address, server.metrics_url
    finally:
        server.kill()


@asynccontextmanager
async def running(folder: Path, engines: tuple[str, str], name: str) -> AsyncIterator[Running]:
    address, metrics_url = engines
    file = folder / "catalogue.yaml"
    file.write_text(CATALOGUE.format(address=address, streams=STREAMS), "utf-8")
    async with AsyncExitStack() as stack:
        opened = await open_pool(read_catalogue(file), {}, folder, stack)
        service = inference_service(opened.pool, datetime.now(UTC))
        at = await stack.enter_async_context(serving(service))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(at))
        identity = stack.enter_context(caller())
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(opened.pool.watch())
            served = opened.pool.find(name)
            try:
                await eventually(lambda: served.state.ready, timeout_s=20)
                metadata = (("authorization", f"Bearer {identity.token}"),)
                yield Running(pb_grpc.InferenceServiceStub(channel), metadata, served, metrics_url)
            finally:
                watching.cancel()


async def until_text(stream: Any) -> None:
    async for response in stream:
        if any(delta.text for delta in response.deltas):
            return


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vllm", "bls"])
async def test_a_hundred_streams_that_are_closed_midway_free_their_slots_and_stop_the_engine_within_a_second(
    tmp_path: Path, engines: tuple[str, str], name: str
) -> None:
    async with running(tmp_path, engines, name) as service:
        streams = [service.ask(Script(endless=True, pause_s=0.2)) for _ in range(STREAMS)]
        await asyncio.gather(*map(until_text, streams))
        assert service.served.queue.running == STREAMS
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await until_text(service.ask(Script(("one more",))))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE, "every slot is taken"

        start = time.monotonic()
        for stream in streams:
            stream.cancel()
        await eventually(lambda: service.served.queue.running == 0, FREED_S)
        await eventually(service.idle, FREED_S)
        assert time.monotonic() - start <= FREED_S
        made = await service.tokens()
        await until_text(service.ask(Script(("free again",))))
        await eventually(service.idle)
        await asyncio.sleep(0.5)  # more than two tokens' time: what would still be made is seen
        assert await service.tokens() == made + 1, "only the new answer's token was made"
