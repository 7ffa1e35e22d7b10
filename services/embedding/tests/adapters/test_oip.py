"""The encoder adapter against a real OIP server in the process; the fake encoder passes the shared test too."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from embedding.adapters.oip import OipEncoder
from embedding.core.ports import Encoder
from embedding_fakes import FINGERPRINT, FakeEncoder, ids
from servicekit.errors import NotFound, TimedOut, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import caller, eventually, serving

from services.embedding.tests.tiny_model import PARAMETERS, TinyModel, tiny_service


@asynccontextmanager
async def connected(model: TinyModel, name: str = "tiny", timeout_s: float = 5) -> AsyncIterator[OipEncoder]:
    async with serving(tiny_service(model)) as address, Channel(address) as channel:
        with caller():
            yield OipEncoder(channel, name, timeout_s, timeout_s)


async def behaves_like_an_encoder(encoder: Encoder) -> None:
    assert await encoder.fingerprint() == FINGERPRINT
    texts = [ids(text) for text in ("a b c", "d", "e f")]
    together = list(await encoder.encode(texts, 2))
    assert [np.frombuffer(vector, "<f4")[1] for vector in together] == [3, 1, 2]
    alone: list[bytes] = []
    for text in texts:
        alone += await encoder.encode([text], 2)
    assert together == alone


async def test_the_fake_behaves_like_the_real_one() -> None:
    await behaves_like_an_encoder(FakeEncoder())
    async with connected(TinyModel()) as encoder:
        await behaves_like_an_encoder(encoder)


async def test_sends_two_padded_raw_tensors() -> None:
    model = TinyModel()
    async with connected(model) as encoder:
        await encoder.encode([ids("a b c"), ids("d")], 2)
    (request,) = model.requests
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in request.inputs] == [
        ("input_ids", "INT64", [2, 3]),
        ("attention_mask", "INT64", [2, 3]),
    ]
    assert np.frombuffer(request.raw_input_contents[1], "<i8").tolist() == [1, 1, 1, 1, 0, 0]
    assert np.frombuffer(request.raw_input_contents[0], "<i8")[4:].tolist() == [0, 0]


async def test_a_digest_keeps_its_scheme() -> None:
    async with connected(TinyModel(PARAMETERS | {"digest": "sha256:" + "0" * 64})) as encoder:
        assert await encoder.fingerprint() == FINGERPRINT


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {**PARAMETERS, "dimensions": "many"},
        {**PARAMETERS, "max_tokens": "0"},
        {name: value for name, value in PARAMETERS.items() if name != "digest"},
    ],
)
async def test_a_model_without_a_fingerprint_is_no_encoder(parameters: dict[str, str]) -> None:
    async with connected(TinyModel(parameters)) as encoder:
        with pytest.raises(Unavailable) as caught:
            await encoder.fingerprint()
    assert caught.value.reason == "backend_failed"


async def test_an_unknown_model_is_not_found() -> None:
    async with connected(TinyModel(), name="other") as encoder:
        with pytest.raises(NotFound):
            await encoder.fingerprint()


def no_tensor(response: Any) -> None:
    del response.outputs[:]


def short(response: Any) -> None:
    response.raw_output_contents[0] = response.raw_output_contents[0][:-1]


def not_finite(response: Any) -> None:
    response.raw_output_contents[0] = np.array([[np.nan, 1.0]], "<f4").tobytes()


def bug(_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("spoil", [no_tensor, short, not_finite, bug])
async def test_a_wrong_answer_is_a_failed_backend(spoil: Callable[[Any], None]) -> None:
    async with connected(TinyModel(spoil=spoil)) as encoder:
        with pytest.raises(Unavailable) as caught:
            await encoder.encode([ids("a")], 2)
    assert caught.value.reason == "backend_failed"


async def test_a_refusal_is_not_the_callers_fault() -> None:
    async with connected(TinyModel()) as encoder:
        with caller(scopes=["models"]), pytest.raises(Unavailable) as caught:
            await encoder.encode([ids("a")], 2)
    assert caught.value.reason == "backend_failed"


async def test_gives_up_in_time_and_tells_the_server() -> None:
    model = TinyModel(hang=True)
    async with connected(model, timeout_s=0.1) as encoder:
        with pytest.raises(TimedOut):
            await encoder.encode([ids("a")], 2)
        await eventually(lambda: model.cancelled, timeout_s=1)


async def test_nobody_there_is_unavailable() -> None:
    async with Channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable):
            await OipEncoder(channel, "tiny", 5, 5).encode([ids("a")], 2)
