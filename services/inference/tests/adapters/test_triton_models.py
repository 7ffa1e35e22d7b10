"""The Triton adapters against the real Triton server and the models of this repository."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from inference.adapters.triton import TritonProber, TritonServer, TritonTensors
from inference.adapters.triton_arrays import TritonArrays
from inference.adapters.triton_text import TritonGenerator
from inference.core.answer import FinishReason, Piece
from inference.core.conversation import Turn
from inference.core.generation import Order, Sampling
from inference.core.golden import Outcome, Verdict, judge
from inference.core.prompts import plain
from inference.core.replica import Backend, Replica, Server
from inference.core.replicas import Replicas
from inference.core.replicated import Attempts, ReplicatedTensors
from servicekit.errors import InvalidInput, NotFound, Unavailable
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


def wrong_shape(request: Any) -> None:
    request.inputs[0].shape[1] = 4


def wrong_rank(request: Any) -> None:
    request.inputs[0].shape.append(1)


def negative_size(request: Any) -> None:
    request.inputs[0].shape[0] = -5


def wrong_datatype(request: Any) -> None:
    request.inputs[0].datatype = "FP32"


def unknown_datatype(request: Any) -> None:
    request.inputs[0].datatype = "NOPE"


def missing_tensor(request: Any) -> None:
    del request.inputs[1]
    del request.raw_input_contents[1]


def missing_content(request: Any) -> None:
    del request.raw_input_contents[1]


def raw_and_typed(request: Any) -> None:
    request.inputs[0].contents.int64_contents.extend([1, 2, 3])


def unknown_input(request: Any) -> None:
    request.inputs[0].name = "x"


def unknown_output(request: Any) -> None:
    request.outputs.add(name="nope")


def token_out_of_range(request: Any) -> None:
    request.raw_input_contents[0] = np.array([[10**9, 1, 2]], np.int64).tobytes()


def no_version(request: Any) -> None:
    request.model_version = "newest"


SPOILT = [
    wrong_shape,
    wrong_rank,
    negative_size,
    wrong_datatype,
    unknown_datatype,
    missing_tensor,
    missing_content,
    raw_and_typed,
    unknown_input,
    unknown_output,
    token_out_of_range,
    no_version,
]


@pytest.mark.parametrize("spoil", SPOILT)
async def test_bad_tensors_are_the_callers_fault_and_eject_nobody(
    server: TritonServer, spoil: Callable[[Any], None]
) -> None:
    request = oip.ModelInferRequest.FromString(infer_request("minilm-l6", [[101, 7592, 102]]))
    spoil(request)
    replicas = Replicas(f"minilm-l6 {spoil.__name__}")
    backend = Backend(
        tensors=TritonTensors(server, "minilm-l6", "minilm-l6"),
        prober=TritonProber(server, "minilm-l6"),
        arrays=TritonArrays(server, "minilm-l6", "minilm-l6"),
    )
    replica = Replica(replicas.model, Server(server.address), backend)
    replicas.join(replica)
    await replica.check()
    tensors = ReplicatedTensors(Attempts(replicas))
    for _ in range(10):
        with pytest.raises(InvalidInput):
            await tensors.infer(request.SerializeToString(), 5.0)
    assert replica.in_rotation
    assert replica.outstanding == 0


async def test_typed_contents_are_as_good_as_raw_ones(server: TritonServer) -> None:
    tensors, raw = TritonTensors(server, "minilm-l6", "minilm-l6"), infer_request("minilm-l6", [[101, 7592, 102]])
    typed = oip.ModelInferRequest.FromString(raw)
    del typed.raw_input_contents[:]
    for column, values in zip(typed.inputs, ([101, 7592, 102], [1, 1, 1]), strict=True):
        column.contents.int64_contents.extend(values)
    answers = [await tensors.infer(request, 10.0) for request in (raw, typed.SerializeToString())]
    first, second = (oip.ModelInferResponse.FromString(each).raw_output_contents for each in answers)
    assert first == second


async def test_a_version_that_is_not_there_is_not_found(server: TritonServer) -> None:
    request = oip.ModelInferRequest.FromString(infer_request("minilm-l6", [[101, 7592, 102]]))
    request.model_version = "9"
    with pytest.raises(NotFound) as caught:
        await TritonTensors(server, "minilm-l6", "encoder").infer(request.SerializeToString(), 5.0)
    assert (caught.value.message, caught.value.field) == ("encoder has no version 9", "model_version")


@pytest.mark.parametrize("name", ["minilm-l6", "extractive-reader"])
async def test_the_models_of_this_repository_pass_their_golden_cases(server: TritonServer, name: str) -> None:
    writes = name == "extractive-reader"
    state = await TritonProber(server, name, writes=writes).probe(5.0)
    assert state.golden is not None, state
    arrays, generator = TritonArrays(server, name, name), TritonGenerator(server, name, name, plain)
    assert await judge(state.golden, arrays, generator, 10.0, lambda: 0.0) == Verdict(Outcome.PASSED, 0.0)


async def test_another_models_vectors_are_not_golden(server: TritonServer) -> None:
    state = await TritonProber(server, "minilm-l6").probe(5.0)
    assert state.golden is not None

    class Shuffled(TritonArrays):
        async def run(self, inputs: Any, timeout_s: float) -> Any:
            return {name: values[:, ::-1] for name, values in (await super().run(inputs, timeout_s)).items()}

    verdict = await judge(state.golden, Shuffled(server, "minilm-l6", "m"), None, 10.0, lambda: 0.0)
    assert verdict.outcome is Outcome.WRONG


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


async def test_a_configuration_that_did_not_change_is_read_once(server: TritonServer) -> None:
    prober = TritonProber(server, "minilm-l6")
    states = [await prober.probe(5.0) for _ in range(20)]
    assert states[0].golden is not None
    assert all(state is states[0] for state in states)
