"""Writes the body of a chat completion request in OpenAI's schema; only what was asked for stands in it."""

from typing import Any, Final

import numpy as np
import orjson
from servicekit.errors import InvalidInput

from inference.core.capabilities import UnsupportedParameter
from inference.core.conversation import Audio, Image, Part, Text, ToolCall, Turn
from inference.core.generation import ChatOptions, JsonObject, JsonSchema, Order, Sampling, Tool, ToolChoice, ToolMode

SIMPLE: Final = ("max_tokens", "temperature", "top_p", "seed", "n", "presence_penalty", "frequency_penalty")
STREAM_OPTIONS: Final = {"include_usage": True}
OURS: Final = frozenset(
    {
        *SIMPLE,
        *("model", "messages", "stream", "stream_options", "stop", "logprobs", "top_logprobs", "logit_bias", "tools"),
        *("tool_choice", "parallel_tool_calls", "response_format", "max_completion_tokens"),
    }
)
"""Fields with a place of their own: to take them from extra_json would pass their checks by."""
LONG_TEXT: Final = 64 * 1024
FIRST_PRINTED: Final = 0x20
UNREADABLE: Final = frozenset({"functions", "function_call", "modalities", "audio"})
"""Fields that change an answer in a way that cannot be handed on."""


def write_body(order: Order, model: str, *, streaming: bool, limit_field: str = "max_tokens") -> bytes:
    """Return the request for `model`; `limit_field` is what the upstream calls max_tokens.

    Raises InvalidInput for JSON text that is none, and for an extra field that is not one.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(turn) for turn in order.turns],
        "stream": streaming,
    }
    if streaming:
        body["stream_options"] = STREAM_OPTIONS
    _add_sampling(body, order.sampling)
    if limit_field != "max_tokens" and "max_tokens" in body:
        body[limit_field] = body.pop("max_tokens")
    if order.options is not None:
        _add_options(body, order.options)
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:  # what is left to go wrong once types are checked
        raise InvalidInput("an extra field is nested too deeply") from error


def _message(turn: Turn) -> dict[str, Any]:
    if not (turn.parts or turn.name or turn.tool_calls or turn.tool_call_id or turn.refusal):
        return {"role": turn.role, "content": turn.content}
    message: dict[str, Any] = {"role": turn.role}
    if turn.parts:
        message["content"] = [_part(part) for part in turn.parts]
    elif turn.content or not (turn.tool_calls or turn.refusal):
        message["content"] = turn.content
    if turn.name:
        message["name"] = turn.name
    if turn.tool_calls:
        message["tool_calls"] = [_call(call) for call in turn.tool_calls]
    if turn.tool_call_id:
        message["tool_call_id"] = turn.tool_call_id
    if turn.refusal:
        message["refusal"] = turn.refusal
    return message


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image(url, detail):
            image = {"url": _written(url)}
            return {"type": "image_url", "image_url": image | {"detail": detail} if detail else image}
        case Audio(content, format_):
            return {"type": "input_audio", "input_audio": {"data": _written(content), "format": format_}}


def _written(text: str) -> Any:
    """Return a text as it may stand in a body: a long one in which nothing has to be escaped is written already.

    That is so of every picture, and takes a third of the time.
    """
    if len(text) < LONG_TEXT:
        return text
    raw = text.encode()
    if b'"' in raw or b"\\" in raw or np.frombuffer(raw, dtype=np.uint8).min() < FIRST_PRINTED:
        return text
    return orjson.Fragment(b'"' + raw + b'"')


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _add_sampling(body: dict[str, Any], sampling: Sampling) -> None:
    for name in SIMPLE:
        value = getattr(sampling, name)
        if value is not None:
            body[name] = value
    if sampling.stop:
        body["stop"] = sampling.stop
    if sampling.logprobs:
        body["logprobs"] = True
        if sampling.top_logprobs is not None:
            body["top_logprobs"] = sampling.top_logprobs
    if sampling.logit_bias:
        body["logit_bias"] = dict(sampling.logit_bias)


def _add_options(body: dict[str, Any], options: ChatOptions) -> None:
    if options.tools:
        body["tools"] = [_tool(tool, index) for index, tool in enumerate(options.tools)]
    if options.tool_choice is not None:
        body["tool_choice"] = _choice(options.tool_choice)
    if options.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = options.parallel_tool_calls
    match options.response_format:
        case JsonObject():
            body["response_format"] = {"type": "json_object"}
        case JsonSchema() as wanted:
            body["response_format"] = {"type": "json_schema", "json_schema": _schema(wanted)}
    if options.extra_json:
        body.update(_extra(options.extra_json))


def _tool(tool: Tool, index: int) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters_json:
        function["parameters"] = _fragment(tool.parameters_json, f"tools[{index}].function.parameters")
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice) -> Any:
    if choice.mode is ToolMode.FUNCTION:
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode.value


def _schema(wanted: JsonSchema) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "name": wanted.name,
        "schema": _fragment(wanted.schema_json, "response_format.json_schema.schema"),
    }
    if wanted.description:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return schema


def _fragment(text: str, field: str) -> orjson.Fragment:
    """Return JSON text that is an object, to be put into the body as it is."""
    _object(text, field)
    return orjson.Fragment(text)


def _extra(text: str) -> dict[str, Any]:
    extra = _object(text, "extra_json")
    for name in extra:
        if name in OURS:
            raise InvalidInput(f"{name} has a field of its own and is no extra one", field=name[:100])
        if name in UNREADABLE:
            raise UnsupportedParameter(f"{name} is not supported", field=name)
    return extra


def _object(text: str, field: str) -> dict[str, Any]:
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("this has to be JSON", field=field) from error
    if not isinstance(value, dict):
        raise InvalidInput("this has to be a JSON object", field=field)
    return value
