"""What a conversation has to be, whichever door it came through; fields are named as in OpenAI's schema."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from servicekit.errors import InvalidInput

from gateway.api.errors import UnsupportedParameter
from gateway.core.structured import ANY_OBJECT, NO_DEMANDS, Demands, Schema, parse_json, schema_of
from gateway.core.targets import Pipeline, check_turns, target_of

TOOL_NAME: Final = "^[A-Za-z0-9_-]{1,64}$"
SCHEMA_PATH: Final = "response_format.json_schema.schema"
MAX_MESSAGES: Final = 4096
MAX_TOOLS: Final = 128
MAX_EXTRA_CHARS: Final = 64 * 1024
LONGEST_SPEAKER: Final = 64
LONGEST_FIELD: Final = 100
IMAGE_SCHEMES: Final = ("https:", "data:")
DETAILS: Final = frozenset({"", "auto", "low", "high"})
CARRIED: Final = frozenset({"prediction", "reasoning_effort", "verbosity"})
"""Fields of OpenAI's schema that only the host of a model understands."""
PIPELINE_SAMPLING: Final = frozenset({"max_tokens", "temperature", "top_p", "stop", "seed"})

_tool_name: Final = re.compile(TOOL_NAME)


class UnknownFields(StrEnum):
    """What becomes of fields that OpenAI's schema does not have: refused by name, dropped, or passed to a model's host.

    What no host would get (inside messages and tools, and of embeddings) is refused where others are passed on.
    """

    REFUSE = "refuse"
    IGNORE = "ignore"
    PASS = "pass"  # noqa: S105  a word, not a password


def check(conversation: pb.Conversation, unknown_fields: UnknownFields) -> Demands:
    """Raise InvalidInput unless the conversation can be asked; return what its answer has to be.

    Fields that the policy ignores are dropped from the conversation.
    """
    if unknown_fields is UnknownFields.IGNORE and conversation.options.extra_json:
        _drop_unknown(conversation.options)
    target = target_of(conversation.model)
    is_pipeline = isinstance(target, Pipeline)
    messages = conversation.messages
    if len(messages) > MAX_MESSAGES:
        raise InvalidInput(f"at most {MAX_MESSAGES} messages are taken", field="messages")
    check_turns([message.role for message in messages], pipeline=is_pipeline)
    _check_messages(messages)
    for field, value in conversation.sampling.ListFields():
        _check_sampling(field.name, value, conversation.sampling)
    if is_pipeline:
        _check_pipeline(conversation)
    if not conversation.HasField("options"):
        return NO_DEMANDS
    options = conversation.options
    _check_extra(options.extra_json, unknown_fields)
    arguments = dict(_strict_tools(options))
    _check_choice(options)
    content = _content_schema(options.response_format)
    return Demands(content, arguments) if content is not None or arguments else NO_DEMANDS


def _check_messages(messages: Any) -> None:
    called: set[str] = set()
    for index, message in enumerate(messages):
        if message.parts:
            _check_parts(message, f"messages[{index}].content")
        if message.tool_calls or message.refusal or message.tool_call_id or message.role == "tool":
            _check_role(message, f"messages[{index}]", called)
        if len(message.name) > LONGEST_SPEAKER:
            raise InvalidInput(f"at most {LONGEST_SPEAKER} characters", field=f"messages[{index}].name")


def _check_parts(message: inference.Message, path: str) -> None:
    if message.content:
        raise InvalidInput("a message has its content in one text or in parts, not both", field=path)
    for index, part in enumerate(message.parts):
        kind = part.WhichOneof("part")
        if kind is None:
            raise InvalidInput("a part is a text, an image or sound", field=f"{path}[{index}]")
        if kind != "text" and message.role != "user":
            raise InvalidInput("images and sound come from the user alone", field=f"{path}[{index}].type")
        if kind == "image":
            _check_image(part.image, f"{path}[{index}].image_url")


def _check_image(image: inference.Image, path: str) -> None:
    if not image.url[:6].lower().startswith(IMAGE_SCHEMES):
        raise InvalidInput("an image is an https: or data: URL", field=f"{path}.url")
    if image.detail not in DETAILS:
        raise InvalidInput("detail is auto, low or high", field=f"{path}.detail")


def _check_role(message: inference.Message, path: str, called: set[str]) -> None:
    """Refuse what does not belong to a role, and a tool's answer that nobody asked for."""
    if message.role != "assistant" and (message.tool_calls or message.refusal):
        field = "tool_calls" if message.tool_calls else "refusal"
        raise InvalidInput("only an assistant calls tools or refuses", field=f"{path}.{field}")
    if message.role == "tool" and message.tool_call_id not in called:
        raise InvalidInput("it answers no call of a message before", field=f"{path}.tool_call_id")
    if message.role != "tool" and message.tool_call_id:
        raise InvalidInput("only a tool answers a call", field=f"{path}.tool_call_id")
    for index, call in enumerate(message.tool_calls):
        if not call.id or not call.name:
            raise InvalidInput("a call has an id and a name", field=f"{path}.tool_calls[{index}]")
        called.add(call.id)


def _between(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: least <= value <= most


RANGES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "max_tokens": (_between(1, 2**32 - 1), "1 or more"),
    "temperature": (_between(0, 2), "from 0 to 2"),
    "top_p": (lambda value: 0 < value <= 1, "above 0, at most 1"),
    "stop": (
        lambda texts: len(texts) <= 4 and all(0 < len(text) <= 256 for text in texts),
        "up to 4 texts of 1 to 256",
    ),
    "n": (_between(1, 128), "from 1 to 128"),
    "presence_penalty": (_between(-2, 2), "from -2 to 2"),
    "frequency_penalty": (_between(-2, 2), "from -2 to 2"),
    "top_logprobs": (_between(0, 20), "from 0 to 20"),
    "logit_bias": (
        lambda biases: (
            len(biases) <= 1024
            and all(token.isascii() and token.isdecimal() and -100 <= bias <= 100 for token, bias in biases.items())
        ),
        "up to 1024 token ids, each with a bias from -100 to 100",
    ),
}


def _check_sampling(name: str, value: Any, sampling: inference.SamplingParameters) -> None:
    rule = RANGES.get(name)
    if rule is not None and not rule[0](value):
        raise InvalidInput(f"{name} has to be {rule[1]}", field=name)
    if name == "top_logprobs" and not sampling.logprobs:
        raise InvalidInput("top_logprobs needs logprobs", field=name)


def _check_pipeline(conversation: pb.Conversation) -> None:
    """Refuse what a pipeline does not pass on to its model."""
    for field, value in conversation.sampling.ListFields():
        neutral = value == (1 if field.name == "n" else 0)
        if field.name not in PIPELINE_SAMPLING and not neutral:
            raise UnsupportedParameter(f"a pipeline does not support {field.name}", field=field.name)
    for field, _ in conversation.options.ListFields():
        name = field.name if field.name != "extra_json" else _first_field(conversation.options.extra_json)
        raise UnsupportedParameter(f"a pipeline does not support {name}", field=name)
    for index, message in enumerate(conversation.messages):
        if any(not part.HasField("text") for part in message.parts) or message.tool_calls:
            raise UnsupportedParameter("a pipeline reads text alone", field=f"messages[{index}].content")


def _first_field(extra_json: str) -> str:
    return next(iter(_extra_fields(extra_json)), "extra_json")


@contextmanager
def naming_extra(conversation: pb.Conversation) -> Iterator[None]:
    """Name the caller's own field when a model takes none of those that are handed on as they are."""
    try:
        yield
    except InvalidInput as error:
        if error.field != "extra_json":
            raise
        name = _first_field(conversation.options.extra_json)
        raise UnsupportedParameter(f"the model does not support {name}", field=name) from error


def _extra_fields(extra_json: str) -> Mapping[str, Any]:
    if len(extra_json) > MAX_EXTRA_CHARS:
        raise InvalidInput(f"further fields take at most {MAX_EXTRA_CHARS} characters", field="extra_json")
    try:
        fields = parse_json(extra_json)
    except ValueError as error:
        raise InvalidInput("further fields are a JSON object", field="extra_json") from error
    if not isinstance(fields, dict):
        raise InvalidInput("further fields are a JSON object", field="extra_json")
    if any(len(name) > LONGEST_FIELD for name in fields):
        raise InvalidInput(f"a field's name has at most {LONGEST_FIELD} characters", field="extra_json")
    return fields


def _drop_unknown(options: inference.ChatOptions) -> None:
    kept = {name: value for name, value in _extra_fields(options.extra_json).items() if name in CARRIED}
    options.extra_json = json.dumps(kept, separators=(",", ":")) if kept else ""


def _check_extra(extra_json: str, unknown_fields: UnknownFields) -> None:
    if not extra_json:
        return
    for name in _extra_fields(extra_json):
        if name in NAMED:
            raise InvalidInput(f"{name!r} is a field of its own", field=name)
        if unknown_fields is UnknownFields.REFUSE and name not in CARRIED:
            raise InvalidInput(f"unknown field {name!r}", reason="unknown_parameter", field=name)


NAMED: Final = frozenset(
    {
        *(
            "model",
            "messages",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
        ),
        *("stop", "seed", "n", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "audio", "function_call", "functions"),
        *(
            "modalities",
            "moderation",
            "prompt_cache_options",
            "service_tier",
            "store",
            "web_search_options",
            "metadata",
        ),
        *("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"),
    }
)
"""Fields that have a meaning here, so that none gets past it."""


def _strict_tools(options: inference.ChatOptions) -> Iterator[tuple[str, Schema]]:
    """Check the tools; yield the name and the schema of each whose arguments are promised to fit."""
    if len(options.tools) > MAX_TOOLS:
        raise InvalidInput(f"at most {MAX_TOOLS} tools are taken", field="tools")
    names: set[str] = set()
    for index, tool in enumerate(options.tools):
        path = f"tools[{index}].function"
        if not _tool_name.fullmatch(tool.name):
            raise InvalidInput("a name has 1 to 64 letters, digits, _ or -", field=f"{path}.name")
        if tool.name in names:
            raise InvalidInput("two tools have the same name", field=f"{path}.name")
        names.add(tool.name)
        if tool.strict:
            yield tool.name, _schema(tool.parameters_json, f"{path}.parameters")
        elif tool.parameters_json:
            _check_object(tool.parameters_json, f"{path}.parameters")


def _check_object(text: str, path: str) -> None:
    try:
        whole = isinstance(parse_json(text), dict)
    except ValueError as error:
        raise InvalidInput(f"it is not JSON: {error}", field=path) from error
    if not whole:
        raise InvalidInput("a JSON Schema is an object", field=path)


def _schema(text: str, path: str) -> Schema:
    return schema_of(text, path) if text else ANY_OBJECT


def _check_choice(options: inference.ChatOptions) -> None:
    choice = options.tool_choice
    if options.HasField("parallel_tool_calls") and not options.tools:
        raise InvalidInput("parallel_tool_calls needs tools", field="parallel_tool_calls")
    needs_tools = choice.mode in {inference.TOOL_MODE_REQUIRED, inference.TOOL_MODE_FUNCTION}
    if needs_tools and not options.tools:
        raise InvalidInput("tool_choice needs tools", field="tool_choice")
    if (choice.mode == inference.TOOL_MODE_FUNCTION) != bool(choice.name):
        raise InvalidInput("a function is chosen by its name", field="tool_choice")
    if choice.name and all(tool.name != choice.name for tool in options.tools):
        raise InvalidInput(f"there is no tool {choice.name[:64]!r}", field="tool_choice.function.name")


def _content_schema(form: inference.ResponseFormat) -> Schema | None:
    match form.type:
        case inference.RESPONSE_FORMAT_TYPE_JSON_SCHEMA:
            if not _tool_name.fullmatch(form.name):
                raise InvalidInput(
                    "a name has 1 to 64 letters, digits, _ or -", field="response_format.json_schema.name"
                )
            return schema_of(form.schema_json, SCHEMA_PATH)
        case inference.RESPONSE_FORMAT_TYPE_JSON_OBJECT:
            return ANY_OBJECT
        case inference.RESPONSE_FORMAT_TYPE_UNSPECIFIED:
            return None
    raise InvalidInput("unknown form", field="response_format.type")
