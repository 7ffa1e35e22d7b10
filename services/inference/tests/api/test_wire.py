"""The model's name is read from an OIP message without parsing it."""

import pytest
from inference.api.wire import read_model_name
from servicekit.errors import InvalidInput
from tritonclient.grpc import service_pb2 as oip


def test_finds_the_name_among_tensors() -> None:
    request = oip.ModelInferRequest(model_name="encoder-ü", id="7", raw_input_contents=[b"x" * 300, b"", b"\x0a\x01b"])
    request.inputs.add(name="input_ids", datatype="INT64", shape=[1, 300])
    request.parameters["timeout"].int64_param = 5
    assert read_model_name(request.SerializeToString()) == "encoder-ü"


def test_the_last_of_two_names_counts_as_it_does_for_the_backend() -> None:
    twice = oip.ModelReadyRequest(name="a").SerializeToString() + oip.ModelReadyRequest(name="b").SerializeToString()
    assert oip.ModelReadyRequest.FromString(twice).name == "b"
    assert read_model_name(twice) == "b"


def test_skips_fields_of_every_kind() -> None:
    message = b"\x78\x96\x01" + b"\x79" + b"x" * 8 + b"\x7d" + b"x" * 4 + b"\x0a\x01m" + b"\x08\x05"
    assert read_model_name(message) == "m"


MALFORMED = [
    b"\x0a",
    b"\x0a\x05ab",
    b"\xff" * 12,
    b"\x0b",
    b"\x79xx",
    b"\x78",
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
]


@pytest.mark.parametrize("message", [*MALFORMED, b"", b"\x0a\x00", b"\x0a\x01\xff", b"\x10\x01" * 20_000])
def test_refuses_what_is_malformed_or_names_no_model(message: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_model_name(message)
