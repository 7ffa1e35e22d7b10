"""The Triton adapters against the real Triton server and the models of this repository."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from inference.adapters.triton import TritonProber, TritonServer, TritonTensors
from inference.adapters.triton_text import TritonGenerator
from inference.core.answer import FinishReason, Piece
from inference.core.conversation import Turn
from inference.core.generation import Order, Sampling
from inference.core.prompts import plain
from servicekit.errors import InvalidInput, Unavailable
from tritonclient.grpc import service_pb2 as oip

PROMPT = """Answer from the passages.
<passages>
<passage n="1" title="Dams">
The Hoover Dam was completed in 1936. It stands in the Black Canyon of the Colorado River.
</passage>
</passages>
<question>
When was the Hoover Dam completed?
</question>"""


@pytest.fixture
async def server(triton_address: str) -> AsyncIterator[TritonServer]:
    async with TritonServer(triton_address) as connection:
        yield connection


def infer_request(name: str, rows: list[list[int]]) -> bytes:
    request = oip.ModelInferRequest(model_name=name)
    ids = np.array(rows, np.int64)
    for column, values in (("input_ids", ids), ("attention_mask", np.ones_like(ids))):
        request.inputs.add(name=column, datatype="INT64", shape=ids.shape)
        request.raw_input_contents.append(values.tobytes())
    return request.SerializeToString()


async def generate(server: TritonServer, text: str, **sampling: Any) -> list[Piece]:
    order = Order((Turn("user", text),), Sampling(**sampling))
    generator = TritonGenerator(server, "extractive-reader", "reader", plain)
    return [event async for event in generator.generate(order, 20.0)]


async def test_an_encoders_state_tells_version_and_digest(server: TritonServer) -> None:
    state = await TritonProber(server, "minilm-l6").probe(5.0)
    assert state.ready
    assert state.version
    assert state.digest.startswith("sha256:")


async def test_a_model_that_is_not_there_is_not_loaded(server: TritonServer) -> None:
    assert (await TritonProber(server, "nope").probe(5.0)).reason == "not_loaded"
    with pytest.raises(Unavailable) as caught:
        await TritonTensors(server, "nope", "nope").infer(infer_request("nope", [[1]]), 5.0)
    assert caught.value.reason == "not_loaded"


async def test_tensors_go_through_under_another_name(server: TritonServer) -> None:
    raw = await TritonTensors(server, "minilm-l6", "encoder").infer(infer_request("encoder", [[101, 7592, 102]]), 10.0)
    response = oip.ModelInferResponse.FromString(raw)
    vector = np.frombuffer(response.raw_output_contents[0], np.float32)
    assert response.model_name == "encoder"
    assert vector.shape == (384,)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-3)


async def test_wrong_tensors_are_the_callers_fault(server: TritonServer) -> None:
    request = oip.ModelInferRequest(model_name="minilm-l6").SerializeToString()
    with pytest.raises(InvalidInput):
        await TritonTensors(server, "minilm-l6", "minilm-l6").infer(request, 5.0)


async def test_a_model_with_many_responses_needs_the_stream(server: TritonServer) -> None:
    request = oip.ModelInferRequest(model_name="extractive-reader").SerializeToString()
    with pytest.raises(InvalidInput):
        await TritonTensors(server, "extractive-reader", "reader").infer(request, 5.0)


def text(pieces: list[Piece]) -> str:
    return "".join(delta.text for piece in pieces for delta in piece.deltas)


async def test_the_reader_answers_and_cites(server: TritonServer) -> None:
    pieces = await generate(server, PROMPT, max_tokens=200)
    assert pieces[0].served is not None
    assert pieces[0].served.version
    assert "1936" in text(pieces)
    assert "[1]" in text(pieces)
    assert pieces[-1].deltas[-1].finish_reason is FinishReason.STOP
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.reported
    assert pieces[-1].usage.output_tokens > 0


async def test_the_reader_answers_as_a_whole_as_it_does_in_pieces(server: TritonServer) -> None:
    order = Order((Turn("user", PROMPT),), Sampling(max_tokens=200))
    whole = await TritonGenerator(server, "extractive-reader", "reader", plain).complete(order, 20.0)
    pieces = await generate(server, PROMPT, max_tokens=200)
    assert (whole.choices[0].turn.content, whole.usage) == (text(pieces), pieces[-1].usage)


async def test_the_reader_stops_at_the_token_limit(server: TritonServer) -> None:
    last = (await generate(server, PROMPT, max_tokens=2))[-1]
    assert last.deltas[-1].finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert last.usage.output_tokens == 2


async def test_a_stop_text_ends_the_readers_answer(server: TritonServer) -> None:
    pieces = await generate(server, PROMPT, stop=("1936",))
    assert "1936" not in text(pieces)
    assert pieces[-1].deltas[-1].finish_reason is FinishReason.STOP
