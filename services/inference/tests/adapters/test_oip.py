"""Relabelling OIP messages, and how two answers differ."""

from typing import Any

import numpy as np
import pytest
from inference.adapters.oip import OipLabels, compare
from inference.core.shadow import Difference
from servicekit.errors import Unavailable
from tritonclient.grpc import service_pb2 as oip

DTYPES = {
    "FP32": np.float32,
    "FP16": np.float16,
    "FP64": np.float64,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
LABELS = OipLabels()


def response(datatype: str = "FP32", name: str = "out", values: Any = ((1.0, 2.0),)) -> bytes:
    array = np.array(values, DTYPES.get(datatype, np.float32))
    message = oip.ModelInferResponse(model_name="m", model_version="1")
    message.outputs.add(name=name, datatype=datatype, shape=array.shape)
    message.raw_output_contents.append(array.tobytes())
    return bytes(message.SerializeToString())


def test_requests_and_answers_get_another_name_and_keep_the_rest() -> None:
    request = oip.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"x" * 300])
    asked = oip.ModelInferRequest.FromString(LABELS.asked(request.SerializeToString(), "m-v2"))
    assert (asked.model_name, asked.id, asked.raw_input_contents) == ("m-v2", "7", [b"x" * 300])
    answered = oip.ModelInferResponse.FromString(LABELS.answered(response(), "n" * 200, "2"))
    assert (answered.model_name, answered.model_version, len(answered.outputs)) == ("n" * 200, "2", 1)
    streamed = oip.ModelStreamInferResponse(infer_response=oip.ModelInferResponse.FromString(response()))
    relabelled = oip.ModelStreamInferResponse.FromString(LABELS.streamed(streamed.SerializeToString(), "n", "2"))
    assert relabelled.infer_response.model_name == "n"
    assert (relabelled.infer_response.model_version, len(relabelled.infer_response.outputs)) == ("2", 1)


def test_so_do_descriptions() -> None:
    described = oip.ModelMetadataResponse(name="m-v2", platform="p")
    shown = oip.ModelMetadataResponse.FromString(LABELS.described(described.SerializeToString(), "m"))
    assert (shown.name, shown.platform) == ("m", "p")
    configured = oip.ModelConfigResponse()
    configured.config.name, configured.config.max_batch_size = "m-v2", 8
    config = oip.ModelConfigResponse.FromString(LABELS.configured(configured.SerializeToString(), "m")).config
    assert (config.name, config.max_batch_size) == ("m", 8)


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_equal_answers_are_the_same(datatype: str) -> None:
    assert compare(response(datatype), response(datatype)) == Difference(same=True, max_abs_diff=0.0)


@pytest.mark.parametrize(
    ("datatype", "values", "expected"),
    [
        ("FP32", ((1.0, 2.25),), 0.25),
        ("FP16", ((1.5, 2.0),), 0.5),
        ("INT64", ((1, -5),), 7.0),
        ("UINT8", ((0, 255),), 253.0),
        ("BOOL", ((True, False),), 1.0),
    ],
)
def test_the_largest_difference_is_told(datatype: str, values: Any, expected: float) -> None:
    assert compare(response(datatype), response(datatype, values=values)) == Difference(
        same=False, max_abs_diff=expected
    )


def test_bf16_is_read_as_the_numbers_it_stands_for() -> None:
    def bf16(*halves: int) -> bytes:
        message = oip.ModelInferResponse()
        message.outputs.add(name="out", datatype="BF16", shape=[len(halves)])
        message.raw_output_contents.append(np.array(halves, "<u2").tobytes())
        return bytes(message.SerializeToString())

    assert compare(bf16(0x3F80), bf16(0x4000)) == Difference(same=False, max_abs_diff=1.0)


@pytest.mark.parametrize(
    ("theirs", "detail"),
    [
        (response(values=((1.0, 2.0, 3.0),)), "out: float32 [1, 2] against float32 [1, 3]"),
        (response("INT64"), "out: float32 [1, 2] against int64 [1, 2]"),
        (response(name="other"), "outputs out against other"),
        (oip.ModelInferResponse().SerializeToString(), "outputs out against none"),
        (response(values=((1.0, np.nan),)), "out: some differences are no finite numbers"),
        (response(values=((1.0, np.inf),)), "out: some differences are no finite numbers"),
    ],
)
def test_what_cannot_be_subtracted_is_told(theirs: bytes, detail: str) -> None:
    assert compare(response(), theirs) == Difference(same=False, max_abs_diff=None, detail=detail)


def test_texts_are_compared_and_not_told() -> None:
    def said(text: bytes) -> bytes:
        message = oip.ModelInferResponse()
        message.outputs.add(name="out", datatype="BYTES", shape=[1])
        message.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
        return bytes(message.SerializeToString())

    assert compare(said(b"secret"), said(b"secret")).same
    different = compare(said(b"secret"), said(b"public"))
    assert different == Difference(same=False, max_abs_diff=None, detail="out: the texts differ")


def test_typed_contents_are_compared_as_raw_ones() -> None:
    message = oip.ModelInferResponse()
    message.outputs.add(name="out", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.0, 2.5])
    assert compare(response(), message.SerializeToString()) == Difference(same=False, max_abs_diff=0.5)


@pytest.mark.parametrize("wrong", [b"\xff\xff", response() + b"\x2a\x01x", response("FP32", values=((1.0,),))[:-4]])
def test_an_answer_that_is_none_is_a_failure_of_the_shadow(wrong: bytes) -> None:
    with pytest.raises(Unavailable):
        compare(response(), wrong)


def test_a_shape_that_does_not_fit_its_bytes_is_a_failure_of_the_shadow() -> None:
    message = oip.ModelInferResponse.FromString(response())
    message.outputs[0].shape[:] = [1, 3]
    with pytest.raises(Unavailable):
        compare(response(), message.SerializeToString())
