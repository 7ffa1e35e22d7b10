"""Every field of OpenAI's chat schema is honoured, harmless, or refused by name."""

import json
from typing import Any

import pytest
from gateway.api.chat_request import ChatRequest, parse_chat
from gateway.api.chat_rules import CARRIED, NAMED, UnknownFields, check
from google.protobuf.json_format import MessageToDict
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from penstock.gateway.v1 import gateway_pb2 as pb
from servicekit.errors import InvalidInput

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "form", "schema": SCHEMA, "strict": True}}


def image(url: str = "https://example.org/a.png", **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def part(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": [content]}]}


def asked(policy: UnknownFields = UnknownFields.PASS, **changes: Any) -> pb.Conversation:
    body = {"model": "writer", "messages": [USER], **changes}
    conversation = parse_chat(json.dumps(body).encode()).conversation()
    check(conversation, policy)
    return conversation


def test_every_field_of_the_official_client_is_known() -> None:
    known = {name for name in ChatRequest.model_fields if name != "stream"}
    assert CompletionCreateParamsNonStreaming.__annotations__.keys() - {"stream"} <= known
    assert known | {"stream"} == NAMED | CARRIED


def test_everything_is_carried() -> None:
    conversation = asked(
        messages=[
            {"role": "developer", "content": "Be brief", "name": "ops"},
            {"role": "user", "content": [{"type": "text", "text": "What?"}, image(detail="low")]},
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            USER,
        ],
        max_completion_tokens=9, temperature=0, top_p=0.5, stop="x", seed=-3, n=2, presence_penalty=-1,
        frequency_penalty=1.5, logprobs=True, top_logprobs=3, logit_bias={"50256": -100},
        tools=[TOOL, {"type": "function", "function": {"name": "b", "description": "B", "strict": True}}],
        tool_choice={"type": "function", "function": {"name": "b"}}, parallel_tool_calls=False,
        response_format=FORMAT, reasoning_effort="low", top_k=5,
    )  # fmt: skip
    turns = [MessageToDict(turn, preserving_proto_field_name=True) for turn in conversation.messages]
    assert turns == [
        {"role": "developer", "content": "Be brief", "name": "ops"},
        {
            "role": "user",
            "parts": [{"text": "What?"}, {"image": {"url": "https://example.org/a.png", "detail": "low"}}],
        },
        {"role": "user", "parts": [{"audio": {"content": "AAAA", "format": "wav"}}]},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c1", "name": "find", "arguments": "{}"},
                {"index": 1, "id": "c2", "name": "find", "arguments": "{}"},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "assistant", "refusal": "No."},
        {"role": "user", "content": "Hi"},
    ]
    assert MessageToDict(conversation.sampling, preserving_proto_field_name=True) == {
        "max_tokens": 9, "temperature": 0, "top_p": 0.5, "stop": ["x"], "seed": "-3", "n": 2, "presence_penalty": -1,
        "frequency_penalty": 1.5, "logprobs": True, "top_logprobs": 3, "logit_bias": {"50256": -100},
    }  # fmt: skip
    options = MessageToDict(conversation.options, preserving_proto_field_name=True)
    assert json.loads(options.pop("extra_json")) == {"reasoning_effort": "low", "top_k": 5}
    assert options == {
        "tools": [
            {"name": "find", "parameters_json": '{"type":"object"}'},
            {"name": "b", "description": "B", "strict": True},
        ],
        "tool_choice": {"mode": "TOOL_MODE_FUNCTION", "name": "b"},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "RESPONSE_FORMAT_TYPE_JSON_SCHEMA",
            "name": "form",
            "schema_json": json.dumps(SCHEMA, separators=(",", ":")),
            "strict": True,
        },
    }


def test_what_asks_for_nothing_is_not_carried() -> None:
    nothing = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "tools": [], "tool_choice": "none", "logprobs": False,
        "logit_bias": {}, "response_format": {"type": "text"}, "parallel_tool_calls": True, "service_tier": "auto",
        "seed": None, "stop": None, "n": None, "modalities": ["text"], "functions": [], "function_call": "auto",
        "verbosity": "medium", "reasoning_effort": None, "safety_identifier": "s", "prompt_cache_key": "k",
        "stream_options": {"include_usage": True, "include_obfuscation": False}, "audio": None,
    }  # fmt: skip
    conversation = asked(UnknownFields.REFUSE, **nothing)
    assert conversation == pb.Conversation(model="writer", messages=conversation.messages, sampling={})
    assert not conversation.HasField("options")
    assert not conversation.sampling.ListFields()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"max_tokens": 2**32}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"more": 1}}, "stream_options.more"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "a", "format": "wav"}}, "audio"),
        ({"functions": [{"name": "a"}]}, "functions"),
        ({"function_call": {"name": "a"}}, "function_call"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a", "strict": True, "parameters": {"type": "x"}}}]},
         "tools[0].function.parameters.type"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 5}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "b"}}},
         "tool_choice.function.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "find"}, "more": 1}},
         "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "find"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
         "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "http://a"}}}},
         "response_format.json_schema.schema.$ref"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "colour": "red"}]}, "messages[0].colour"),
        ({"messages": [{"role": "user", "content": "a", "name": "n" * 65}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "c1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "c1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "tool_calls": [{**CALL, "id": ""}]}, USER]},
         "messages[0].tool_calls[0].id"),
        ({"messages": [USER] * 4097}, "messages"),
        (part({"type": "file", "file": {"file_id": "f"}}), "messages[0].content[0].type"),
        (part({"type": "text"}), "messages[0].content[0].text"),
        (part({"type": "text", "text": "a", "image_url": {"url": "data:,"}}), "messages[0].content[0].image_url"),
        (part(image("http://169.254.169.254/latest")), "messages[0].content[0].image_url.url"),
        (part(image("file:///etc/passwd")), "messages[0].content[0].image_url.url"),
        (part(image(detail="huge")), "messages[0].content[0].image_url.detail"),
        (part(image(), role="system"), "messages[0].content[0].type"),
        (part({"type": "refusal", "refusal": "no"}), "messages[0].content[0].type"),
        (part({"type": "input_audio", "input_audio": {"data": "A", "format": "ogg"}}),
         "messages[0].content[0].input_audio.format"),
        ({"flavour": float("inf")}, None),
        ({"model": "rag:docs", "tools": [TOOL]}, "tools"),
        ({"model": "rag:docs", "response_format": FORMAT}, "response_format"),
        ({"model": "rag:docs", "n": 2}, "n"),
        ({"model": "rag:docs", "logprobs": True}, "logprobs"),
        ({"model": "rag:docs", "presence_penalty": 1}, "presence_penalty"),
        ({"model": "rag:docs", "flavour": "sweet"}, "flavour"),
        ({"model": "rag:docs", "reasoning_effort": "low"}, "reasoning_effort"),
        ({"model": "rag:docs", **part(image())}, "messages[0].content"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(changes: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        asked(**changes)
    assert caught.value.field == (param or "")


def test_unknown_fields_are_passed_on_or_refused_by_policy() -> None:
    assert json.loads(asked(flavour={"sweet": [1, None]}).options.extra_json) == {"flavour": {"sweet": [1, None]}}
    with pytest.raises(InvalidInput) as caught:
        asked(UnknownFields.REFUSE, flavour="sweet")
    assert (caught.value.field, caught.value.reason) == ("flavour", "unknown_parameter")
    assert asked(UnknownFields.REFUSE, reasoning_effort="low").options.extra_json == '{"reasoning_effort":"low"}'
    assert asked(UnknownFields.IGNORE, flavour="sweet").options.ByteSize() == 0
    kept = asked(UnknownFields.IGNORE, flavour="sweet", verbosity="low", tools=[TOOL]).options
    assert (kept.extra_json, len(kept.tools)) == ('{"verbosity":"low"}', 1)
    with pytest.raises(InvalidInput) as caught:
        asked(flavour="x" * 70_000)
    assert caught.value.field == "extra_json"


def test_a_pipeline_takes_what_asks_for_nothing() -> None:
    nothing = asked(
        model="rag:docs", n=1, presence_penalty=0, frequency_penalty=0.0, tools=[], response_format={"type": "text"}
    )
    assert not nothing.HasField("options")
    turns = [{"role": "developer", "content": "a"}, USER]
    sampled = asked(model="rag:docs", messages=turns, seed=3, stop=["a"], top_p=0.1).sampling
    assert (sampled.seed, list(sampled.stop), sampled.top_p) == (3, ["a"], pytest.approx(0.1))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b"null", "invalid_input"),
        (b"[]", "invalid_input"),
        (b'{"model": "a", "model": "b", "messages": []}', "malformed_json"),
        (b'{"model": "a", "messages": [{"role": "user", "content": "x", "content": "y"}]}', "malformed_json"),
        (b'{"model": "a", "messages": ' + b"[" * 100_000, "malformed_json"),
        (b'{"model": "a", "extra": ' + b"[" * 5000 + b"]" * 5000 + b"}", "malformed_json"),
        (b'{"model": "a", "temperature": NaN, "messages": []}', "malformed_json"),
        (b'{"model": "a", "seed": ' + b"9" * 5000 + b"}", "malformed_json"),
        (b'{"model": "\xff", "messages": []}', "malformed_json"),
        (b'{"model": "\\ud800", "messages": []}', "malformed_json"),
        (b'{"model": "a", "messages": []} {}', "malformed_json"),
    ],
)
def test_bodies_that_are_none(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_chat(body)
    assert caught.value.reason == reason
    assert len(caught.value.message) <= 300


@pytest.mark.parametrize("number", [b"1e999", b"9" * 400, b"-1e999"])
def test_numbers_that_are_too_large(number: bytes) -> None:
    message = b'"messages": [{"role": "user", "content": "Hi"}]'
    for name in (b"temperature", b"seed", b"n", b"max_tokens", b"presence_penalty"):
        with pytest.raises(InvalidInput) as caught:
            parse_chat(b'{"model": "a", "%b": %b, %b}' % (name, number, message))
        assert caught.value.field.encode() == name
    if number != b"9" * 400:
        with pytest.raises(InvalidInput) as caught:
            parse_chat(b'{"model": "a", "flavour": [%b], %b}' % (number, message)).conversation()
        assert caught.value.field == "flavour"


def test_a_large_image_is_not_copied_about() -> None:
    conversation = asked(**part(image("data:image/png;base64," + "A" * 5_000_000)))
    assert len(conversation.messages[0].parts[0].image.url) > 5_000_000
