"""Whatever an upstream sends is an answer or a failure, and whatever a caller sends is a body or its own fault."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inference.adapters.openai_answer import StreamedAnswer, read_whole
from inference.adapters.openai_errors import of_status
from inference.adapters.openai_request import write_body
from inference.api.messages import read_order, write_answer, write_deltas
from inference.core.conversation import Turn
from inference.core.generation import Order, Sampling
from penstock.inference.v1 import inference_pb2 as pb
from servicekit.errors import InvalidInput, PenstockError, Unavailable

ORDER = Order([Turn("user", "Hi")], Sampling(n=2))
NAMES = ["id", "model", "choices", "index", "delta", "message", "content", "refusal", "tool_calls", "function", "name"]
NAMES += ["arguments", "finish_reason", "logprobs", "usage", "prompt_tokens", "completion_tokens", "error", "code"]
NAMES += ["prompt_tokens_details", "cached_tokens", "system_fingerprint", "param", "detail"]
scalars = st.sampled_from([None, True, False, 0, 1, -1, 2**33, 1.5, 1e300, "", "stop", "tool_calls", "length", "é\x00"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)
choices = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from([0, 1]) | values,
        "delta": st.fixed_dictionaries({}, optional={"content": values, "refusal": values, "tool_calls": values}),
        "message": st.fixed_dictionaries({}, optional={"content": values, "refusal": values, "tool_calls": values}),
        "finish_reason": st.sampled_from(["stop", "tool_calls", None]) | values,
        "logprobs": values,
    },
)
documents = values | st.fixed_dictionaries(
    {"choices": st.lists(choices, max_size=3) | values}, optional={"usage": values, "id": values, "error": values}
)


@settings(max_examples=400, deadline=None)
@given(st.lists(documents, min_size=1, max_size=4))
@example([{"choices": [{"index": True, "finish_reason": "stop"}]}])
def test_a_stream_of_anything_is_an_answer_or_a_failure(events: list[Any]) -> None:
    answer = StreamedAnswer("m", "up", ORDER)
    try:
        for event in [*(orjson.dumps(each) for each in events), b"[DONE]"]:
            piece = answer.read([event])
            if piece is not None:
                write_deltas(piece.deltas)
    except Unavailable as error:
        assert error.reason == "backend_failed"


@settings(max_examples=400, deadline=None)
@given(documents)
def test_a_body_of_anything_is_an_answer_or_a_failure(document: Any) -> None:
    try:
        answer = read_whole("m", "up", ORDER, orjson.dumps(document))
    except Unavailable as error:
        assert error.reason == "backend_failed"
    else:
        assert [choice.index for choice in answer.choices] == [0, 1]
        write_answer(answer, pb.ServedModel())


@settings(max_examples=200, deadline=None)
@given(documents, st.sampled_from([302, 400, 401, 404, 413, 422, 429, 500]))
def test_an_error_of_anything_is_one_of_ours(document: Any, status: int) -> None:
    assert isinstance(of_status("m", status, {}, orjson.dumps(document), datetime.now(UTC)), PenstockError)


SEED = pb.GenerateRequest(
    model="m",
    messages=[
        pb.Message(role="user", parts=[pb.ContentPart(text="a"), pb.ContentPart(image=pb.Image(url="https://x/y"))]),
        pb.Message(role="assistant", tool_calls=[pb.ToolCall(id="c", name="f", arguments="{}")]),
        pb.Message(role="tool", tool_call_id="c", content="1"),
    ],
    sampling=pb.SamplingParameters(n=2, logprobs=True, top_logprobs=2, logit_bias={"7": 1.5}, stop=["a"], top_p=0.5),
    options=pb.ChatOptions(
        tools=[pb.Tool(name="f", parameters_json='{"type": "object"}', strict=True)],
        tool_choice=pb.ToolChoice(mode=pb.TOOL_MODE_FUNCTION, name="f"),
        response_format=pb.ResponseFormat(
            type=pb.RESPONSE_FORMAT_TYPE_JSON_SCHEMA, name="s", schema_json='{"type": "object"}'
        ),
        extra_json='{"user": "u"}',
    ),
).SerializeToString()


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_mutated_request_is_a_body_or_the_callers_fault(data: st.DataObject) -> None:
    raw = bytearray(SEED)
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        request = pb.GenerateRequest.FromString(bytes(raw))
    except DecodeError:
        return
    try:
        order = read_order(request)
        order.check()
        body = write_body(order, "up", streaming=True)
    except InvalidInput:
        return
    written = orjson.loads(body)
    assert (written["model"], written["stream"]) == ("up", True)


def test_the_request_that_is_mutated_is_right_by_itself() -> None:
    order = read_order(pb.GenerateRequest.FromString(SEED))
    order.check()
    assert orjson.loads(write_body(order, "up", streaming=True))["user"] == "u"


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_the_stream_that_is_mutated_is_right_by_itself(cut: int) -> None:
    answer = StreamedAnswer("m", "up", ORDER)
    ends = [{"index": index, "delta": {"content": "a" * cut}, "finish_reason": "stop"} for index in (0, 1)]
    piece = answer.read([orjson.dumps({"choices": ends}), b"[DONE]"])
    assert piece is not None
    assert piece.usage is not None
