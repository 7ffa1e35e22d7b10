"""The typed service: a real server, a real stub."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from inference.api.servicer import inference_service
from inference.core.catalogue import Task
from inference.core.generation import Finished, FinishReason, Piece, Sampling, Turn, Usage
from inference.core.pool import Pool
from inference.core.ports import ModelState
from inference.core.served_model import ServedModel
from inference_fakes import FakeGenerator, FakeTensors, generating, model
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from servicekit.errors import Forbidden, InvalidInput, NotFound, TimedOut, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import caller, eventually, serving

LOADED_AT = datetime(2026, 1, 2, tzinfo=UTC)


class Client:
    """Calls the service as the tester, or as who is asked for."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.stub = pb_grpc.InferenceServiceStub(channel.grpc)

    async def generate(self, timeout_s: float = 5.0, **fields: Any) -> list[pb.GenerateResponse]:
        request = pb.GenerateRequest(**{"model": "chat", "messages": [pb.Message(role="user", content="Hi")]} | fields)
        return [each async for each in self.channel.stream(self.stub.Generate, request, timeout_s=timeout_s)]

    async def complete(self) -> pb.CompleteResponse:
        request = pb.CompleteRequest(model="chat", messages=[pb.Message(role="user", content="Hi")])
        return await self.channel.call(self.stub.Complete, request, timeout_s=5.0)


@asynccontextmanager
async def client(*models: ServedModel) -> AsyncIterator[Client]:
    async with serving(inference_service(Pool(models), LOADED_AT)) as address, Channel(address) as channel:
        with caller():
            yield Client(channel)


async def test_streams_what_serves_text_and_end() -> None:
    async with client(generating(FakeGenerator(), "chat")) as inference:
        started, *texts, finished = await inference.generate()
    assert started.served == pb.ServedModel(model="chat", version="v1", provider="triton")
    assert "".join(each.text for each in texts) == "Hello there."
    usage = pb.TokenUsage(input_tokens=3, output_tokens=2, reported=True)
    assert finished.finished == pb.GenerationFinished(finish_reason=pb.FINISH_REASON_STOP, usage=usage)


async def test_a_short_answer_is_one_message() -> None:
    whole = Piece("v1", "Hi.", Finished(FinishReason.STOP, Usage(3, 1, reported=True)))
    async with client(generating(FakeGenerator([whole]), "chat")) as inference:
        [answer] = await inference.generate()
    assert (answer.served.version, answer.text, answer.finished.usage.output_tokens) == ("v1", "Hi.", 1)


async def test_completes_an_answer_as_a_whole() -> None:
    async with client(generating(FakeGenerator(), "chat")) as inference:
        answer = await inference.complete()
    assert answer.served == pb.ServedModel(model="chat", version="v1", provider="triton")
    assert answer.text == "Hello there."
    usage = pb.TokenUsage(input_tokens=3, output_tokens=2, reported=True)
    assert answer.finished == pb.GenerationFinished(finish_reason=pb.FINISH_REASON_STOP, usage=usage)


async def test_leaving_a_completion_stops_the_backend() -> None:
    generator = FakeGenerator(gate=asyncio.Event())
    served = generating(generator, "chat")
    async with client(served) as inference, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(inference.complete())
        await eventually(lambda: generator.running == 1)
        asking.cancel()
        await eventually(lambda: generator.running == 0, timeout_s=1.0)
        await eventually(lambda: served.queue.running == 0, timeout_s=1.0)


async def test_translates_messages_and_sampling() -> None:
    generator = FakeGenerator()
    sampling = pb.SamplingParameters(max_tokens=5, temperature=0.0, stop=["x"])
    async with client(generating(generator, "chat")) as inference:
        await inference.generate(sampling=sampling)
    order = generator.orders[0]
    assert list(order.turns) == [Turn("user", "Hi")]
    assert order.sampling == Sampling(max_tokens=5, temperature=0.0, stop=("x",))


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": "nope"}, NotFound, "model"),
    ({"model": ""}, NotFound, "model"),
    ({"model": "encoder"}, InvalidInput, "model"),
    ({"messages": []}, InvalidInput, "messages"),
    ({"messages": [pb.Message(role="robot")]}, InvalidInput, "messages[0].role"),
    ({"sampling": pb.SamplingParameters(temperature=9)}, InvalidInput, "sampling.temperature"),
    ({"sampling": pb.SamplingParameters(max_tokens=0)}, InvalidInput, "sampling.max_tokens"),
]


@pytest.mark.parametrize(("fields", "kind", "field"), WRONG)
async def test_bad_input_is_named(fields: dict[str, Any], kind: type[Exception], field: str) -> None:
    encoder = ServedModel(model("encoder", Task.EMBED), tensors=FakeTensors())
    async with client(generating(FakeGenerator(), "chat"), encoder) as inference:
        with pytest.raises(kind) as caught:
            await inference.generate(**fields)
    assert getattr(caught.value, "field", None) == field


async def test_generating_needs_its_scope() -> None:
    async with client(generating(FakeGenerator(), "chat")) as inference:
        with caller(scopes={"embeddings"}), pytest.raises(Forbidden):
            await inference.generate()


async def test_a_failure_keeps_its_reason() -> None:
    failing = FakeGenerator([Piece("v1", "half"), Unavailable("x", reason="backend_failed", retry_after_s=1.0)])
    async with client(generating(failing, "chat")) as inference:
        with pytest.raises(Unavailable) as caught:
            await inference.generate()
    assert (caught.value.reason, caught.value.retry_after_s) == ("backend_failed", 1.0)


async def test_a_caller_who_leaves_stops_the_backend() -> None:
    generator = FakeGenerator(gate=asyncio.Event())
    served = generating(generator, "chat")
    async with client(served) as inference, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(inference.generate())
        await eventually(lambda: generator.running == 1)
        asking.cancel()
        await eventually(lambda: generator.running == 0, timeout_s=1.0)
        await eventually(lambda: served.queue.running == 0, timeout_s=1.0)


async def test_a_caller_who_leaves_while_we_write_stops_the_backend() -> None:
    endless = FakeGenerator([Piece("v1"), *[Piece(text="x" * 100_000)] * 10_000])
    served = generating(endless, "chat")
    async with client(served) as inference:
        request = pb.GenerateRequest(model="chat", messages=[pb.Message(role="user", content="Hi")])
        answer = inference.channel.stream(inference.stub.Generate, request)
        async for _ in answer:
            break
        await answer.aclose()
        await eventually(lambda: endless.running == 0, timeout_s=1.0)
        await eventually(lambda: served.queue.running == 0, timeout_s=1.0)


async def test_a_deadline_stops_the_backend() -> None:
    generator = FakeGenerator(gate=asyncio.Event())
    async with client(generating(generator, "chat")) as inference:
        with pytest.raises(TimedOut):
            await inference.generate(timeout_s=0.1)
        await eventually(lambda: generator.running == 0, timeout_s=1.0)


async def test_lists_and_gets_models_for_every_caller() -> None:
    encoder = ServedModel(
        model("encoder", Task.EMBED, context_tokens=256, description="E"),
        tensors=FakeTensors(),
        state=ModelState(ready=False, reason="not_loaded", version="1", digest="sha256:ab"),
    )
    async with client(generating(FakeGenerator(), "chat"), encoder) as inference:
        with caller(scopes={"ask"}):
            listed = await inference.channel.call(inference.stub.ListModels, pb.ListModelsRequest())
            found = await inference.channel.call(inference.stub.GetModel, pb.GetModelRequest(name="encoder"))
            with pytest.raises(NotFound):
                await inference.channel.call(inference.stub.GetModel, pb.GetModelRequest(name="nope"))
    assert [each.name for each in listed.models] == ["chat", "encoder"]
    assert listed.models[0].ready
    assert listed.models[0].created_at.ToDatetime(UTC) == LOADED_AT
    assert (found.model.task, found.model.digest, found.model.reason) == (
        pb.MODEL_TASK_EMBED,
        "sha256:ab",
        "not_loaded",
    )
    assert (found.model.context_tokens, found.model.ready, found.model.description) == (256, False, "E")
