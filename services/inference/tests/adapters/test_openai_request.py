"""Request bodies hold what was asked for and nothing else."""

from typing import Any

import orjson
import pytest
from inference.adapters.openai_request import write_body
from inference.core.conversation import Audio, Image, Text, ToolCall, Turn
from inference.core.generation import (
    ChatOptions,
    JsonObject,
    JsonSchema,
    Order,
    Sampling,
    Tool,
    ToolChoice,
    ToolMode,
)
from servicekit.errors import InvalidInput

HI = [Turn("user", "Hi")]
SCHEMA = '{"type": "object", "properties": {"n": {"const": 123456789012345678901234567890}}}'


def body(order: Order, **fields: Any) -> dict[str, Any]:
    written = write_body(order, "up", streaming=False, **fields)
    return {key: value for key, value in orjson.loads(written).items() if key not in ("model", "stream")}


def test_a_plain_chat_is_plain() -> None:
    assert orjson.loads(write_body(Order(HI), "up", streaming=False)) == {
        "model": "up",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": False,
    }
    assert orjson.loads(write_body(Order(HI), "up", streaming=True)) == {
        "model": "up",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_every_choice_of_sampling_is_there_zeros_too() -> None:
    sampling = Sampling(5, 0.0, 0.7, ("a", "b"), 0, 2, 0.0, -1.5, True, 0, {"50256": -100.0})
    assert body(Order(HI, sampling)) == {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.7,
        "stop": ["a", "b"],
        "seed": 0,
        "n": 2,
        "presence_penalty": 0.0,
        "frequency_penalty": -1.5,
        "logprobs": True,
        "top_logprobs": 0,
        "logit_bias": {"50256": -100.0},
    }


def test_an_upstream_may_call_the_limit_by_another_name() -> None:
    asked = body(Order(HI, Sampling(max_tokens=5)), limit_field="max_completion_tokens")
    assert asked == {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 5}
    assert "max_completion_tokens" not in body(Order(HI), limit_field="max_completion_tokens")


def test_messages_of_every_kind() -> None:
    turns = [
        Turn("user", parts=[Text("a"), Image("https://x"), Image("data:,", "low"), Audio("AA", "wav")], name="Ada"),
        Turn("assistant", tool_calls=[ToolCall(0, "c0", "f", "{}"), ToolCall(1, "c1", "g", "")]),
        Turn("tool", "42", tool_call_id="c0"),
        Turn("tool", "", tool_call_id="c1"),
        Turn("assistant", refusal="No."),
        Turn("assistant", ""),
    ]
    assert body(Order(turns))["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "https://x"}},
                {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            ],
            "name": "Ada",
        },
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c0", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "c1", "type": "function", "function": {"name": "g", "arguments": ""}},
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c0"},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
        {"role": "assistant", "refusal": "No."},
        {"role": "assistant", "content": ""},
    ]


def test_tools_and_their_choice() -> None:
    options = ChatOptions(
        [Tool("f", "F", SCHEMA, strict=True), Tool("g")], ToolChoice(ToolMode.FUNCTION, "g"), parallel_tool_calls=False
    )
    asked = body(Order(HI, options=options))
    assert asked["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "F", "parameters": orjson.loads(SCHEMA), "strict": True},
        },
        {"type": "function", "function": {"name": "g"}},
    ]
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "g"}}
    assert asked["parallel_tool_calls"] is False


@pytest.mark.parametrize("mode", [ToolMode.AUTO, ToolMode.NONE, ToolMode.REQUIRED])
def test_a_tool_choice_may_be_a_word(mode: ToolMode) -> None:
    assert body(Order(HI, options=ChatOptions([Tool("f")], ToolChoice(mode))))["tool_choice"] == mode.value


def test_the_form_of_the_answer() -> None:
    schema = JsonSchema("s", SCHEMA, "S", strict=False)
    assert body(Order(HI, options=ChatOptions(response_format=JsonObject())))["response_format"] == {
        "type": "json_object"
    }
    assert body(Order(HI, options=ChatOptions(response_format=schema)))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "s", "description": "S", "strict": False, "schema": orjson.loads(SCHEMA)},
    }


def test_a_schema_is_handed_on_to_the_last_digit() -> None:
    options = ChatOptions(response_format=JsonSchema("s", SCHEMA))
    assert SCHEMA.encode() in write_body(Order(HI, options=options), "up", streaming=False)


def test_extra_fields_are_merged_nulls_too() -> None:
    asked = body(Order(HI, options=ChatOptions(extra_json='{"user": "u", "metadata": {"a": "b"}, "top_k": null}')))
    assert (asked["user"], asked["metadata"], asked["top_k"]) == ("u", {"a": "b"}, None)


WRONG = [
    (ChatOptions(extra_json='{"model": "other"}'), "model"),
    (ChatOptions(extra_json='{"a": 1, "messages": []}'), "messages"),
    (ChatOptions(extra_json='{"stream": false}'), "stream"),
    (ChatOptions(extra_json='{"n": 100}'), "n"),
    (ChatOptions(extra_json='{"max_completion_tokens": 9}'), "max_completion_tokens"),
    (ChatOptions(extra_json='{"functions": []}'), "functions"),
    (ChatOptions(extra_json="[]"), "extra_json"),
    (ChatOptions(extra_json="null"), "extra_json"),
    (ChatOptions(extra_json="{"), "extra_json"),
    (ChatOptions(extra_json='{"a": NaN}'), "extra_json"),
    (ChatOptions(extra_json="[" * 100_000), "extra_json"),
    (ChatOptions(extra_json='{"a": ' + "[" * 500 + "]" * 500 + "}"), ""),
    (ChatOptions([Tool("f"), Tool("g", parameters_json="nope")]), "tools[1].function.parameters"),
    (ChatOptions([Tool("f", parameters_json='{}, "model": {}')]), "tools[0].function.parameters"),
    (ChatOptions(response_format=JsonSchema("s", "true")), "response_format.json_schema.schema"),
]


@pytest.mark.parametrize(("options", "field"), WRONG)
def test_what_would_break_the_body_or_take_it_over_is_refused(options: ChatOptions, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        write_body(Order(HI, options=options), "up", streaming=True)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "odd", ["", '"', "\\", "\n", "\x00", "\x1f", "\x7f", "é", "漢", "😀", "\u2028", '","role":"system']
)
def test_long_pictures_and_sounds_come_back_as_they_were(odd: str) -> None:
    text = "A" * 40_000 + odd + "B" * 40_000
    turn = Turn("user", parts=[Image(f"data:image/png;base64,{text}"), Audio(text, "wav")])
    (message,) = body(Order([turn]))["messages"]
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}},
        {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}},
    ]
