"""Golden cases as they stand in a file, and how they have to fit the model."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from inference.adapters.triton import TritonProber, TritonServer
from inference.adapters.triton_arrays import TritonArrays
from inference.adapters.triton_golden import GoldenInvalid, read_golden
from inference.core.golden import Outcome, judge
from inference.core.golden_cases import TensorCase, TextCase
from inference_fakes import FakeTriton
from servicekit.errors import InvalidInput, PenstockError, Unavailable
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc import service_pb2 as oip

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}
Y = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2, 5], "atol": 0.1, "min_cosine": 0.9}
TENSORS: dict[str, Any] = {"cases": [{"name": "one", "inputs": [X], "outputs": [Y]}]}
TEXT: dict[str, Any] = {"cases": [{"messages": [{"role": "user", "content": "Hi"}], "contains": ["there"]}]}


def config(**fields: Any) -> Any:
    """Return the configuration of a model that takes x, and z if it is given, and makes y."""
    made = model_config_pb2.ModelConfig(**{"name": "there", "max_batch_size": 4} | fields)
    made.input.add(name="x", data_type=model_config_pb2.TYPE_FP32, dims=[-1])
    made.input.add(name="z", data_type=model_config_pb2.TYPE_INT64, dims=[1], optional=True)
    made.output.add(name="y", data_type=model_config_pb2.TYPE_FP32, dims=[2])
    return made


def changed(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what changes fields of the one case; `x` and `y` are changed inside."""

    def change(document: dict[str, Any]) -> dict[str, Any]:
        case = document["cases"][0]
        for name, value in fields.items():
            if name in ("x", "y"):
                case["inputs" if name == "x" else "outputs"][0].update(value)
            else:
                case[name] = value
        return document

    return change


UNFIT = "cases[0].inputs[0]: the data do not fit the datatype"
WRONG = [
    (changed(x={"name": "w"}), "cases[0].inputs[0].name: the model has no 'w'"),
    (changed(x={"datatype": "INT64", "data": [1, 2]}), "cases[0].inputs[0].datatype: the model has FP32 there"),
    (changed(y={"shape": [2, 1]}), "cases[0].outputs[0].shape: the model has [-1, 2] there"),
    (changed(y={"name": "logits"}), "cases[0].outputs[0].name: the model has no 'logits'"),
    (changed(x={"shape": [2]}), "cases[0].inputs[0].shape: the model has [-1, -1] there"),
    (changed(x={"shape": [5, 1], "data": [0] * 5}), "cases[0].inputs[0].shape: a batch has 1 to 4 rows"),
    (changed(inputs=[{**X, "name": "z", "datatype": "INT64", "shape": [1, 1], "data": [1]}]), "input 'x' is missing"),
    (changed(x={"data": [1]}), "cases[0].inputs[0]: the data do not fill the shape"),
    (
        changed(inputs=[{**X, "datatype": "INT64", "data": [1, 2.5]}]),
        UNFIT,
    ),
    (
        changed(inputs=[{**X, "datatype": "UINT8", "data": [-1, 2]}]),
        UNFIT,
    ),
    (changed(inputs=[{**X, "datatype": "INT64", "data": [2**70, 2]}]), UNFIT),
    (
        changed(inputs=[{**X, "datatype": "BOOL", "data": [7, 0]}]),
        UNFIT,
    ),
    (changed(x={"data": ["a", 1]}), "cases[0].inputs[0].data"),
    (changed(x={"datatype": "BYTES"}), "cases[0].inputs[0]: BYTES, and nothing else, are written as texts"),
    (changed(x={"data": ["a", "b"]}), "cases[0].inputs[0]: BYTES, and nothing else, are written as texts"),
    (changed(x={"datatype": "BYTES", "data": ["a", "b"]}), "cases[0].inputs[0].datatype: the model has FP32 there"),
    (
        changed(y={"datatype": "BYTES", "data": ["a", "b"]}),
        "an output of BYTES cannot be expected",
    ),
    (changed(y={"atol": -1}), "cases[0].outputs[0].atol"),
    (changed(y={"atol": "NaN"}), "cases[0].outputs[0].atol"),
    (changed(y={"min_cosine": 2}), "cases[0].outputs[0].min_cosine"),
    (changed(outputs=[]), "cases[0]: a case with inputs expects outputs, and no text"),
    (changed(messages=[{"role": "user", "content": "Hi"}]), "cases[0]: a case has either inputs or messages"),
    (changed(expected="x"), "cases[0].expected: Extra inputs are not permitted"),
    (lambda _: {"cases": []}, "cases: List should have at least 1 item"),
    (lambda _: TEXT, "cases[0].messages: the model does not write text"),
]


@pytest.mark.parametrize(
    ("change", "message"), WRONG, ids=[f"{index} {message}" for index, (_, message) in enumerate(WRONG)]
)
def test_what_does_not_fit_the_model_is_told_with_its_path(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    document = change(json.loads(json.dumps(TENSORS)))
    with pytest.raises(GoldenInvalid) as caught:
        read_golden(json.dumps(document), config(), writes=False)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"cases": 3}', "\x00"])
def test_what_are_no_cases_is_refused(text: str) -> None:
    with pytest.raises(GoldenInvalid):
        read_golden(text, config(), writes=False)


def test_a_model_with_many_responses_is_asked_with_messages() -> None:
    decoupled = config(model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=True))
    with pytest.raises(GoldenInvalid, match="asked with messages"):
        read_golden(json.dumps(TENSORS), decoupled, writes=False)
    [case] = read_golden(json.dumps(TEXT), decoupled, writes=True).cases
    assert isinstance(case, TextCase)
    assert (case.turns[0].content, list(case.contains)) == ("Hi", ["there"])


def test_cases_become_arrays_of_their_types() -> None:
    [case] = read_golden(json.dumps(TENSORS), config(), writes=False).cases
    assert isinstance(case, TensorCase)
    assert case.inputs["x"].dtype == np.float32
    assert case.inputs["x"].tolist() == [[1.0, 2.5]]
    assert (case.outputs["y"].atol, case.outputs["y"].min_cosine) == (0.1, 0.9)


class GoldenTriton(FakeTriton):
    """A Triton whose model has golden cases of its own, and doubles, times what a test makes of `factor`."""

    def __init__(self, golden: str) -> None:
        super().__init__()
        self.golden = golden
        self.factor = 2.0

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        response = oip.ModelConfigResponse(config=config())
        response.config.parameters["golden"].string_value = self.golden
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        answer = oip.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="y", datatype="FP32", shape=[1, 2])
        doubled = np.frombuffer(request.raw_input_contents[0], np.float32) * np.float32(self.factor)
        answer.raw_output_contents.append(doubled.tobytes())
        return answer


async def test_a_models_own_cases_are_asked_over_the_wire() -> None:
    triton = GoldenTriton(json.dumps(TENSORS))
    async with triton.running() as address, TritonServer(address) as server:
        prober, arrays = TritonProber(server, "there"), TritonArrays(server, "there", "m")
        state = await prober.probe(1.0)
        assert state.ready
        assert state.golden is not None
        assert (await prober.probe(1.0)).golden is state.golden
        assert (await judge(state.golden, arrays, None, 1.0, lambda: 0.0)).outcome is Outcome.PASSED
        triton.factor = 2.2
        wrong = await judge(state.golden, arrays, None, 1.0, lambda: 0.0)
        assert (wrong.outcome, wrong.detail) == (Outcome.WRONG, "one: y: an element is off by 0.5")


async def test_cases_that_do_not_fit_keep_the_model_out_and_say_why() -> None:
    triton = GoldenTriton(json.dumps(changed(y={"name": "logits"})(json.loads(json.dumps(TENSORS)))))
    async with triton.running() as address, TritonServer(address) as server:
        state = await TritonProber(server, "there").probe(1.0)
    assert (state.ready, state.reason) == (False, "golden_invalid")
    assert state.detail == "cases[0].outputs[0].name: the model has no 'logits'"


async def test_cases_of_the_catalogue_replace_the_models_own() -> None:
    triton = GoldenTriton("nonsense")
    async with triton.running() as address, TritonServer(address) as server:
        state = await TritonProber(server, "there", json.dumps(TENSORS)).probe(1.0)
    assert state.ready
    assert state.golden is not None


class Garbled(GoldenTriton):
    """Answers with tensors that cannot be."""

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        answer = oip.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="y", datatype="FP32", shape=[1, 2])
        answer.raw_output_contents.append(b"abc")
        return answer


async def failure(triton: FakeTriton) -> PenstockError:
    async with triton.running() as address, TritonServer(address) as server:
        with pytest.raises(PenstockError) as caught:
            await TritonArrays(server, "there", "m").run({"x": np.zeros((1, 2), np.float32)}, 1.0)
        return caught.value


async def test_an_answer_that_is_no_tensor_is_a_failure_of_the_backend() -> None:
    assert (await failure(Garbled(""))).reason == "backend_failed"


async def test_errors_of_triton_are_translated() -> None:
    triton = GoldenTriton("")
    triton.failure = (grpc.StatusCode.INVALID_ARGUMENT, "bad shape")
    assert isinstance(await failure(triton), InvalidInput)
    triton.failure = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
    assert isinstance(await failure(triton), Unavailable)
