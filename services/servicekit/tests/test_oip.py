"""Heads and places of fields are read from OIP messages as protobuf itself reads them."""

import random

import pytest
from google.protobuf.message import DecodeError
from servicekit.errors import InvalidInput
from servicekit.oip import Head, fields, read_head, read_model_name, tag_and_size
from tritonclient.grpc import service_pb2 as oip


def a_request() -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(
        model_name="encoder-ü", model_version="3", id="7", raw_input_contents=[b"x" * 300, b"", b"\x0a\x01b"]
    )
    request.inputs.add(name="input_ids", datatype="INT64", shape=[1, 300])
    request.parameters["timeout"].int64_param = 5
    return request


def test_finds_the_head_among_tensors() -> None:
    assert read_head(a_request().SerializeToString()) == Head("encoder-ü", "3", "7")


def test_finds_where_the_tensors_lie() -> None:
    message = a_request().SerializeToString()
    raw = [message[start:end] for number, start, end in fields(message) if number == 7]
    assert raw == [b"x" * 300, b"", b"\x0a\x01b"]


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
    b"\x02\x00",
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
]


@pytest.mark.parametrize("message", [*MALFORMED, b"", b"\x0a\x00", b"\x0a\x01\xff", b"\x10\x01" * 20_000])
def test_refuses_what_is_malformed_or_names_no_model(message: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_head(message)


@pytest.mark.parametrize("tensors", ["inputs", "outputs"])
@pytest.mark.parametrize("name", ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"])
def test_refuses_tensors_in_shared_memory(tensors: str, name: str) -> None:
    request = a_request()
    asked = getattr(request, tensors).add(name="x")
    asked.parameters["classification"].int64_param = 1
    asked.parameters[name].string_param = "somebody's"
    with pytest.raises(InvalidInput, match="shared memory"):
        read_head(request.SerializeToString())


def test_refuses_shared_memory_in_an_entry_with_two_keys() -> None:
    twice = b"\x0a\x01a" + tag_and_size(1, 20) + b"shared_memory_region"
    entry = tag_and_size(4, len(twice)) + twice
    message = a_request().SerializeToString() + tag_and_size(5, len(entry)) + entry
    assert "shared_memory_region" in oip.ModelInferRequest.FromString(message).inputs[1].parameters
    with pytest.raises(InvalidInput, match="shared memory"):
        read_head(message)


def test_tensors_may_speak_of_shared_memory() -> None:
    request = a_request()
    words = request.inputs.add(name="shared_memory_region", datatype="BYTES", shape=[1])
    words.contents.bytes_contents.append(b"\x0a\x14shared_memory_region")
    words.parameters["note"].string_param = "shared_memory_region"
    assert read_head(request.SerializeToString()).name == "encoder-ü"


def test_never_takes_another_name_than_protobuf_does() -> None:
    """Mutated messages: whatever is read is what a backend reads, and anything else is refused."""
    dice, whole, agreed = random.Random(7), a_request().SerializeToString(), 0
    for _ in range(5000):
        message = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            message[dice.randrange(len(message))] = dice.randrange(256)
        try:
            head = read_head(bytes(message))
        except InvalidInput:
            continue
        try:
            backend = oip.ModelInferRequest.FromString(bytes(message))
        except DecodeError:  # stricter below the top level, which it has to refuse itself
            continue
        assert head == Head(backend.model_name, backend.model_version, backend.id)
        agreed += 1
    assert agreed > 500


@pytest.mark.parametrize("size", [0, 1, 127, 128, 5_000_000])
def test_writes_what_stands_before_a_field(size: int) -> None:
    request = oip.ModelInferRequest.FromString(tag_and_size(7, size) + bytes(size))
    assert list(map(len, request.raw_input_contents)) == [size]
