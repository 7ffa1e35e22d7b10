"""ScoreService over a real server: rows in, answers out, as batch work, and resumed after a break."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from inference.api.asker import current_asker
from inference.api.score import score_service
from inference.core.catalogue import Task
from inference.core.pool import Pool
from inference.core.ports import ModelState
from inference.core.scoring import Scorer
from inference.core.served_model import ServedModel
from inference_fakes import FakeTensors, model
from penstock.inference.v1 import score_pb2 as pb
from penstock.inference.v1 import score_pb2_grpc as pb_grpc
from prometheus_client import REGISTRY
from servicekit.errors import InvalidInput
from servicekit.testing import caller, eventually, serving
from tritonclient.grpc import service_pb2 as oip


class Gated(FakeTensors):
    """Waits at a gate, and counts what is there."""

    def __init__(self) -> None:
        super().__init__(b"scored")
        self.gate = asyncio.Event()
        self.running = 0

    async def infer(self, request: bytes, timeout_s: float) -> bytes:
        self.running += 1
        try:
            await self.gate.wait()
            return await super().infer(request, timeout_s)
        finally:
            self.running -= 1


def entry(tensors: FakeTensors, **fields: Any) -> ServedModel:
    state = ModelState(ready=True, version="1")
    return ServedModel(model("encoder", Task.EMBED, **fields), tensors=tensors, state=state, asker=current_asker)


def start(**fields: Any) -> pb.ScoreRequest:
    return pb.ScoreRequest(start=pb.ScoreStart(**({"model": "encoder"} | fields)))


def rows(offsets: Iterable[int], name: str = "encoder") -> list[pb.ScoreRequest]:
    payload = oip.ModelInferRequest(model_name=name).SerializeToString()
    return [pb.ScoreRequest(row=pb.ScoreRow(offset=offset, request=payload)) for offset in offsets]


@asynccontextmanager
async def asking(served: ServedModel, **who: Any) -> AsyncIterator[Any]:
    """Yield a function that sends messages and returns the call."""
    pool = Pool([served])
    async with (
        serving(score_service(pool, Scorer(pool.infer))) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        with caller(**who) as identity:
            metadata = (("authorization", f"Bearer {identity.token}"),)
            stub = pb_grpc.ScoreServiceStub(channel)
            yield lambda messages: stub.Score(messages, metadata=metadata)


async def test_scores_rows_and_resumes_after_a_break() -> None:
    tensors = FakeTensors(b"scored")
    async with asking(entry(tensors)) as ask:
        found = [each async for each in ask([start(), *rows(range(5))])]
        assert [(each.offset, each.response) for each in found] == [(offset, b"scored") for offset in range(5)]
        found = [each async for each in ask([start(from_offset=3), *rows(range(6))])]
    assert [each.offset for each in found] == [3, 4, 5]
    assert len(tensors.requests) == 8


async def test_a_row_that_fails_is_told_and_the_stream_goes_on() -> None:
    async with asking(entry(FakeTensors(error=InvalidInput("no such shape")))) as ask:
        found = [each async for each in ask([start(), *rows([4, 9])])]
    failure = pb.RowFailure(reason="invalid_input", message="no such shape", retryable=False)
    assert found == [pb.ScoreResponse(offset=offset, failure=failure) for offset in (4, 9)]


async def test_cancelling_frees_the_slots() -> None:
    tensors = Gated()
    served = entry(tensors, limits=(4, 4))
    async with asking(served) as ask:
        call = ask([start(window=3), *rows(range(100))])
        await eventually(lambda: tensors.running == 3)
        assert served.queue.running == 3
        call.cancel()
        await eventually(lambda: served.queue.running == 0, timeout_s=1.0)


async def test_it_is_batch_work_whoever_asks() -> None:
    tensors = Gated()
    served = entry(tensors, limits=(1, 0))
    labels = {"model": "encoder", "priority": "batch", "reason": "queue_full"}
    before = REGISTRY.get_sample_value("penstock_inference_refused_total", labels) or 0.0
    async with asking(served) as ask:
        call = ask([start(), *rows(range(2))])
        await eventually(lambda: REGISTRY.get_sample_value("penstock_inference_refused_total", labels) == before + 1)
        tensors.gate.set()
        assert [each.offset async for each in call] == [0, 1]


REFUSED = [
    ([], grpc.StatusCode.INVALID_ARGUMENT, "the start"),
    (rows([0]), grpc.StatusCode.INVALID_ARGUMENT, "the start"),
    ([start(), start()], grpc.StatusCode.INVALID_ARGUMENT, "is a row"),
    ([start(), pb.ScoreRequest()], grpc.StatusCode.INVALID_ARGUMENT, "is a row"),
    ([start(), *rows([3, 3])], grpc.StatusCode.INVALID_ARGUMENT, "rise"),
    ([start(), *rows([0], "another")], grpc.StatusCode.INVALID_ARGUMENT, "not for encoder"),
    ([start(window=65)], grpc.StatusCode.INVALID_ARGUMENT, "at most 64"),
    ([start(model="nope")], grpc.StatusCode.NOT_FOUND, "nope"),
]


async def unended(messages: list[pb.ScoreRequest]) -> AsyncIterator[pb.ScoreRequest]:
    """Send and leave the stream open: to write to one that was refused is an error of its own at the client."""
    for message in messages:
        yield message
    if messages:
        await asyncio.Event().wait()


@pytest.mark.parametrize(("messages", "status", "said"), REFUSED, ids=str)
async def test_refuses_a_stream_that_makes_no_sense(
    messages: list[pb.ScoreRequest], status: grpc.StatusCode, said: str
) -> None:
    async with asking(entry(FakeTensors(b"scored"))) as ask:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in ask(unended(messages)):
                pass
    assert caught.value.code() is status
    assert said in (caught.value.details() or "")


@pytest.mark.parametrize("who", [{"region": "eu"}, {"scopes": ("embeddings",)}])
async def test_a_caller_who_may_not_is_refused(who: dict[str, Any]) -> None:
    async with asking(entry(FakeTensors(b"scored"), region="us"), **who) as ask:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in ask(unended([start()])):
                pass
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
