"""RankService over a real server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from inference.adapters.pair_tensors import PairTensors
from inference.api.rank import rank_service
from inference.core.catalogue import Task
from inference.core.pool import Pool
from inference.core.ports import ModelState
from inference.core.ranking import Ranker
from inference.core.served_model import ServedModel
from inference_fakes import FakeGenerator, FakeTensors, generating, model
from penstock.inference.v1 import rank_pb2 as pb
from penstock.inference.v1 import rank_pb2_grpc as pb_grpc
from servicekit.errors import Unavailable
from servicekit.testing import caller, serving
from tritonclient.grpc import service_pb2 as oip

SCORES = oip.ModelInferResponse(model_name="there", model_version="3", raw_output_contents=[b"\0\0\0\x3f\0\0\0\xc0"])
SCORES.outputs.add(name="scores", datatype="FP32", shape=[2])


@asynccontextmanager
async def asking(tensors: FakeTensors, **who: Any) -> AsyncIterator[Any]:
    """Yield a function that ranks with a pool of one ranker and one writer."""
    state = ModelState(ready=True, version="3", digest="sha256:d")
    ranks = ServedModel(model("ranks", Task.TENSOR, region="eu"), tensors=tensors, state=state)
    pool = Pool([ranks, generating(FakeGenerator(), "writes")])
    service = rank_service(pool, Ranker(pool.infer, PairTensors()))
    async with serving(service) as address, grpc.aio.insecure_channel(address) as channel:
        with caller(**who) as identity:
            metadata = (("authorization", f"Bearer {identity.token}"),)
            stub = pb_grpc.RankServiceStub(channel)
            yield lambda **fields: stub.Rank(
                pb.RankRequest(**{"model": "ranks", "query": "q", "passages": ["a", "b"]} | fields), metadata=metadata
            )


async def test_passages_are_scored_and_the_model_is_named() -> None:
    tensors = FakeTensors(SCORES.SerializeToString())
    async with asking(tensors) as ask:
        response = await ask()
    assert list(response.scores) == [0.5, -2.0]
    served = response.served
    assert (served.model, served.version, served.digest) == ("ranks", "3", "sha256:d")
    assert (served.provider, served.region) == ("triton", "eu")
    assert oip.ModelInferRequest.FromString(tensors.requests[0]).model_name == "ranks"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "nope"}, grpc.StatusCode.NOT_FOUND),
        ({"model": "writes"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"query": " "}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"passages": []}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"passages": ["a"] * 65}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"passages": ["a"] * 3}, grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_what_cannot_be_ranked_is_told(fields: dict[str, Any], code: grpc.StatusCode) -> None:
    async with asking(FakeTensors(SCORES.SerializeToString())) as ask:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(**fields)
    assert caught.value.code() is code


async def test_a_busy_ranker_says_so() -> None:
    async with asking(FakeTensors(error=Unavailable("busy", reason="queue_full"))) as ask:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("who", [{"scopes": frozenset({"embeddings"})}, {"region": "us"}])
async def test_who_may_not_use_the_model_is_refused(who: dict[str, Any]) -> None:
    tensors = FakeTensors(SCORES.SerializeToString())
    async with asking(tensors, **who) as ask:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert tensors.requests == []
