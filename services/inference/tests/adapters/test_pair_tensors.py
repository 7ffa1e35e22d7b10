"""The tensors of a ranking model, and the built-in one in a real Triton."""

import struct
from collections.abc import AsyncIterator, Sequence

import pytest
from inference.adapters.pair_tensors import PairTensors
from inference.adapters.triton import TritonProber, TritonServer, TritonTensors
from inference.adapters.triton_arrays import TritonArrays
from inference.core.golden import Outcome, judge
from inference.core.ranking import Ranked, Ranker
from servicekit.errors import InvalidInput
from tritonclient.grpc import service_pb2 as oip

DAMS = "The Hoover Dam was completed in 1936. It stands in the Black Canyon of the Colorado River."
PIPES = "A penstock leads water from the reservoir to the turbine. A gate at its head controls the flow."
BREAD = "Bread is made of flour, water, salt and yeast."


@pytest.fixture
async def server(triton_address: str) -> AsyncIterator[TritonServer]:
    async with TritonServer(triton_address) as connection:
        yield connection


def ranker(server: TritonServer, triton_name: str = "passage-ranker") -> Ranker:
    tensors = TritonTensors(server, triton_name, "ranker")
    return Ranker(lambda _model, request: tensors.infer(request, 20.0), PairTensors())


def answer(*outputs: tuple[str, str], raw: Sequence[bytes] = ()) -> bytes:
    response = oip.ModelInferResponse(model_name="ranker", model_version="3", raw_output_contents=raw)
    for name, datatype in outputs:
        response.outputs.add(name=name, datatype=datatype, shape=[2])
    serialised: bytes = response.SerializeToString()
    return serialised


def test_texts_are_elements_led_by_their_length() -> None:
    request = oip.ModelInferRequest.FromString(PairTensors().request("m", "é", ["", "ab", "\ud800"]))
    assert [(each.name, each.datatype, list(each.shape)) for each in request.inputs] == [
        ("query", "BYTES", [1]),
        ("passages", "BYTES", [3]),
    ]
    assert list(request.raw_input_contents) == [b"\2\0\0\0\xc3\xa9", b"\0\0\0\0\2\0\0\0ab\1\0\0\0?"]


def test_scores_are_read_with_the_version() -> None:
    raw = struct.pack("<2f", 0.5, -2.0)
    assert PairTensors().read(answer(("scores", "FP32"), raw=[raw])) == Ranked([0.5, -2.0], "3")


@pytest.mark.parametrize(
    "response",
    [
        b"\xff\xff",
        answer(),
        answer(("scores", "FP32")),
        answer(("scores", "FP64"), raw=[b"\0" * 16]),
        answer(("logits", "FP32"), raw=[b"\0" * 8]),
        answer(("scores", "FP32"), ("more", "FP32"), raw=[b"\0" * 8, b"\0" * 8]),
        answer(("scores", "FP32"), raw=[b"\0" * 7]),
    ],
)
def test_what_are_no_scores_is_refused(response: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        PairTensors().read(response)


async def test_the_built_in_ranker_prefers_what_answers(server: TritonServer) -> None:
    found = await ranker(server).rank("ranker", "When was the Hoover Dam completed?", [PIPES, DAMS, "", BREAD])
    assert max(range(4), key=lambda place: found.scores[place]) == 1
    assert found.scores[2] == -2.0, "what has no word cannot be an answer"
    found = await ranker(server).rank("ranker", "What controls the flow of water?", [PIPES, DAMS, BREAD])
    assert max(range(3), key=lambda place: found.scores[place]) == 0
    assert found.version == "1"


async def test_a_score_depends_on_its_passage_alone(server: TritonServer) -> None:
    query = "What does a gate control?"
    passages = [PIPES, DAMS, BREAD, f"{DAMS} {PIPES} " * 9, "A gate.", "?", *[BREAD] * 20]
    together = (await ranker(server).rank("ranker", query, passages)).scores
    for place in range(6):
        alone = (await ranker(server).rank("ranker", query, [passages[place]])).scores[0]
        assert together[place] == pytest.approx(alone, abs=1e-4), "order, company and padding change nothing"


async def test_the_built_in_ranker_passes_its_golden_cases(server: TritonServer) -> None:
    state = await TritonProber(server, "passage-ranker").probe(5.0)
    assert state.ready and state.digest.startswith("sha256:")
    assert state.golden is not None
    arrays = TritonArrays(server, "passage-ranker", "ranker")
    verdict = await judge(state.golden, arrays, None, 20.0, lambda: 0.0)
    assert (verdict.outcome, verdict.detail) == (Outcome.PASSED, "")


async def test_a_model_that_ranks_nothing_refuses_the_tensors(server: TritonServer) -> None:
    with pytest.raises(InvalidInput):
        await ranker(server, "minilm-l6").rank("ranker", "q", ["a"])
