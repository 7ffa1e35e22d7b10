"""The service over a real server and stub: messages, statuses, scopes, deadlines."""

from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from embedding.api.servicer import embedding_api
from embedding_fakes import FINGERPRINT, FakeEncoder, ids, running, vector
from penstock.embedding.v1 import embedding_pb2 as pb
from penstock.embedding.v1 import embedding_pb2_grpc as pb_grpc
from servicekit.errors import Forbidden, InvalidInput, NotFound, TimedOut, Unauthenticated, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import caller, eventually, serving


@asynccontextmanager
async def connected(encoder: FakeEncoder) -> AsyncIterator[tuple[Channel, pb_grpc.EmbeddingServiceStub]]:
    async with (
        running(encoder, waiting=3000) as embedder,
        serving(embedding_api(embedder)) as address,
        Channel(address) as channel,
    ):
        yield channel, pb_grpc.EmbeddingServiceStub(channel.grpc)


async def test_embeds_and_names_the_encoder() -> None:
    async with (
        running(FakeEncoder()) as embedder,
        serving(embedding_api(embedder)) as address,
        Channel(address) as channel,
    ):
        stub = pb_grpc.EmbeddingServiceStub(channel.grpc)
        with caller():
            response = await channel.call(stub.Embed, pb.EmbedRequest(texts=["a b", "日本"]))
            tokens = [pb.TokenIds(ids=array("q", ids(text))) for text in ("a b", "日本")]
            as_tokens = await channel.call(stub.Embed, pb.EmbedRequest(tokens=tokens, dimensions=2))
            known = await channel.call(stub.GetEncoder, pb.GetEncoderRequest(model="tiny"))
    assert response.vectors == vector("a b") + vector("日本")
    assert as_tokens == response
    assert np.frombuffer(response.vectors, "<f4").reshape(2, response.encoder.dimensions).shape == (2, 2)
    assert list(response.token_counts) == [2, 1]
    assert response.encoder == known.encoder
    assert known.encoder.digest == FINGERPRINT.digest
    assert (known.encoder.version, known.encoder.pooling, known.encoder.max_tokens) == ("1", "mean", 16)


@pytest.mark.parametrize(
    ("request_", "kind", "field"),
    [
        (pb.EmbedRequest(), InvalidInput, "texts"),
        (pb.EmbedRequest(texts=["a"] * 2049), InvalidInput, "texts"),
        (pb.EmbedRequest(texts=["a", ""]), InvalidInput, "texts[1]"),
        (pb.EmbedRequest(texts=["x" * 1_048_577]), InvalidInput, "texts[0]"),
        (pb.EmbedRequest(model="other", texts=["a"]), NotFound, "model"),
        (pb.EmbedRequest(model="other", tokens=[pb.TokenIds(ids=[1])]), NotFound, "model"),
        (pb.EmbedRequest(texts=["a"], tokens=[pb.TokenIds(ids=[1])]), InvalidInput, "tokens"),
        (pb.EmbedRequest(tokens=[pb.TokenIds(ids=[1]), pb.TokenIds()]), InvalidInput, "tokens[1]"),
        (pb.EmbedRequest(texts=["a"], dimensions=5), InvalidInput, "dimensions"),
        (pb.EmbedRequest(texts=["a"], dimensions=0), InvalidInput, "dimensions"),
    ],
)
async def test_bad_requests(request_: pb.EmbedRequest, kind: type[Exception], field: str) -> None:
    async with (
        running(FakeEncoder()) as embedder,
        serving(embedding_api(embedder)) as address,
        Channel(address) as channel,
    ):
        stub = pb_grpc.EmbeddingServiceStub(channel.grpc)
        with caller(), pytest.raises(kind) as caught:
            await channel.call(stub.Embed, request_)
    assert caught.value.field == field


async def test_a_whole_megabyte_and_two_thousand_texts_are_allowed() -> None:
    async with connected(FakeEncoder()) as (channel, stub):
        with caller():
            texts = ["x" * 1_048_576, *(f"t{number}" for number in range(2047))]
            response = await channel.call(stub.Embed, pb.EmbedRequest(texts=texts))
    assert len(response.token_counts) == 2048


async def test_needs_the_scope() -> None:
    async with (
        running(FakeEncoder()) as embedder,
        serving(embedding_api(embedder)) as address,
        Channel(address) as channel,
    ):
        stub = pb_grpc.EmbeddingServiceStub(channel.grpc)
        with pytest.raises(Unauthenticated):
            await channel.call(stub.Embed, pb.EmbedRequest(texts=["a"]))
        with caller(scopes=["models"]), pytest.raises(Forbidden):
            await channel.call(stub.Embed, pb.EmbedRequest(texts=["a"]))


async def test_an_encoder_that_is_down_is_unavailable() -> None:
    async with connected(FakeEncoder(now=None)) as (channel, stub):
        with caller(), pytest.raises(Unavailable) as caught:
            await channel.call(stub.Embed, pb.EmbedRequest(texts=["a"]))
    assert caught.value.reason == "backend_failed"


async def test_a_passed_deadline_cancels_what_nobody_else_wants() -> None:
    encoder = FakeEncoder(held=True)
    async with connected(encoder) as (channel, stub):
        with caller(), pytest.raises(TimedOut):
            await channel.call(stub.Embed, pb.EmbedRequest(texts=["a"]), timeout_s=0.05)
        await eventually(lambda: encoder.cancelled == 1, timeout_s=1)
