"""The typed door's conversations meet the same rules; what a request needs is read from its fields."""

from typing import Any

import pytest
from gateway.api.chat_needs import needs_of
from gateway.api.chat_rules import UnknownFields, check
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from servicekit.errors import InvalidInput

USER = inference.Message(role="user", content="Hi")
TOOL = inference.Tool(name="find", parameters_json='{"type": "object"}')


def conversation(*more: inference.Message, sampling: Any = None, options: Any = None) -> pb.Conversation:
    return pb.Conversation(model="writer", messages=more or [USER], sampling=sampling, options=options)


def turn(**fields: Any) -> pb.Conversation:
    return conversation(inference.Message(**fields))


def form(**fields: Any) -> pb.Conversation:
    return conversation(options={"response_format": fields})


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (pb.Conversation(), "model"),
        (pb.Conversation(model="writer"), "messages"),
        (turn(role="robot", content="x"), "messages[0].role"),
        (turn(role="user", content="x", parts=[{"text": "y"}]), "messages[0].content"),
        (turn(role="user", parts=[{}]), "messages[0].content[0]"),
        (turn(role="user", parts=[{"image": {"url": "gopher://x"}}]), "messages[0].content[0].image_url.url"),
        (turn(role="user", parts=[{"image": {"url": "data:,", "detail": "x"}}]),
         "messages[0].content[0].image_url.detail"),
        (turn(role="tool", content="x", tool_call_id="c"), "messages[0].tool_call_id"),
        (conversation(inference.Message(role="assistant", tool_calls=[{"id": "c"}]), USER),
         "messages[0].tool_calls[0]"),
        (turn(role="user", content="x", refusal="no"), "messages[0].refusal"),
        (conversation(*[USER] * 4097), "messages"),
        (conversation(sampling={"temperature": float("nan")}), "temperature"),
        (conversation(sampling={"temperature": 2.01}), "temperature"),
        (conversation(sampling={"top_p": float("inf")}), "top_p"),
        (conversation(sampling={"max_tokens": 0}), "max_tokens"),
        (conversation(sampling={"n": 0}), "n"),
        (conversation(sampling={"stop": [""]}), "stop"),
        (conversation(sampling={"stop": ["a"] * 5}), "stop"),
        (conversation(sampling={"top_logprobs": 2}), "top_logprobs"),
        (conversation(sampling={"logit_bias": {"x": 1}}), "logit_bias"),
        (conversation(sampling={"logit_bias": {"1": float("nan")}}), "logit_bias"),
        (conversation(options={"tools": [{"name": "a b"}]}), "tools[0].function.name"),
        (conversation(options={"tools": [TOOL, TOOL]}), "tools[1].function.name"),
        (conversation(options={"tools": [{"name": "a", "parameters_json": "{"}]}), "tools[0].function.parameters"),
        (conversation(options={"tools": [{"name": "a", "parameters_json": "[]"}]}), "tools[0].function.parameters"),
        (conversation(options={"tool_choice": {"mode": 3}}), "tool_choice"),
        (conversation(options={"tools": [TOOL], "tool_choice": {"mode": 4}}), "tool_choice"),
        (conversation(options={"tools": [TOOL], "tool_choice": {"mode": 1, "name": "find"}}), "tool_choice"),
        (conversation(options={"tools": [TOOL], "tool_choice": {"mode": 4, "name": "b"}}), "tool_choice.function.name"),
        (conversation(options={"parallel_tool_calls": True}), "parallel_tool_calls"),
        (conversation(options={"extra_json": "{"}), "extra_json"),
        (conversation(options={"extra_json": "[1]"}), "extra_json"),
        (conversation(options={"extra_json": '{"model": "other"}'}), "model"),
        (conversation(options={"extra_json": '{"stream": true}'}), "stream"),
        (conversation(options={"extra_json": '{"a": 1, "a": 2}'}), "extra_json"),
        (conversation(options={"extra_json": '{"' + "a" * 101 + '": 1}'}), "extra_json"),
        (form(type=2, name="a", schema_json="{"), "response_format.json_schema.schema"),
        (form(type=2, schema_json="{}"), "response_format.json_schema.name"),
        (form(type=9), "response_format.type"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(asked: pb.Conversation, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(asked, UnknownFields.PASS)
    assert caught.value.field == field


def test_what_is_demanded_of_the_answer() -> None:
    assert not check(conversation(options={"tools": [TOOL]}), UnknownFields.PASS)
    strict = inference.Tool(name="find", strict=True, parameters_json='{"required": ["a"]}')
    demands = check(conversation(options={"tools": [strict], "response_format": {"type": 1}}), UnknownFields.PASS)
    assert demands.faults("no", [])
    assert demands.faults("", [("find", "{}")])
    assert demands.faults("", [("other", "no json")]) == []


def test_a_plain_text_needs_nothing() -> None:
    needs = needs_of(conversation(inference.Message(role="user", content="x" * 400), sampling={"max_tokens": 7}))
    assert needs.capabilities == frozenset()
    assert 100 <= needs.input_tokens <= 110
    assert needs.max_tokens == 7


def test_needs_are_named_by_their_fields() -> None:
    parts = [{"text": "x" * 40}, {"image": {"url": "data:," + "A" * 100_000}}, {"audio": {"content": "A" * 8000}}]
    needs = needs_of(
        conversation(
            inference.Message(role="user", parts=parts),
            inference.Message(role="assistant", tool_calls=[{"id": "c", "name": "find"}]),
            sampling={
                "n": 2,
                "seed": 1,
                "stop": ["a"],
                "logprobs": True,
                "logit_bias": {"1": 1},
                "presence_penalty": 1,
            },
            options={"response_format": {"type": 2}},
        )
    )
    assert needs.fields == {
        "n": "n", "seed": "seed", "stop": "stop", "logprobs": "logprobs", "logit_bias": "logit_bias",
        "penalties": "presence_penalty", "vision": "messages[0].content[1]", "audio": "messages[0].content[2]",
        "tools": "messages[1]", "json_schema": "response_format",
    }  # fmt: skip
    assert needs.capabilities == needs.fields.keys()
    assert 1000 < needs.input_tokens < 1300
    assert needs_of(conversation(sampling={"n": 1, "presence_penalty": 0})).capabilities == frozenset()
