"""What a conversation needs of the model that goes on with it."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference

from gateway.core.routes import Needs
from gateway.core.token_bounds import most_tokens

BYTES_PER_TOKEN: Final = 4
LOW_IMAGE_TOKENS: Final = 85
IMAGE_TOKENS: Final = 1_105
"""What GPT-4o reads of an image of 2,048 x 4,096 pixels, the larger example of OpenAI's guide to vision."""

MOST_IMAGE_TOKENS: Final = 4_160
"""What Pixtral reads of its largest image: 64 rows of 64, and the end of each; GPT-4o, Claude 3 and LLaVA read less.

It is so for every `detail`, which only OpenAI honours. Not covered: models that take an image at any size (Qwen 2 VL).
"""
AUDIO_CHARS_PER_TOKEN: Final = 4_000
FEWEST_AUDIO_CHARS_PER_TOKEN: Final = 500
"""MP3 of 32 kbit/s in base64, for models that read ten tokens a second."""

TEMPLATE_TOKENS: Final = 80
"""What a template writes before a conversation. Measured with o200k: gpt-oss 63, Llama 3.1 30, Qwen 2.5 23."""

MESSAGE_TOKENS: Final = 4
"""What a template writes around a message, beside what is counted for its role and length."""

TOOLS_TOKENS: Final = 1_000
"""What a host writes about tools beside the tools: Anthropic's documentation has 530; 935 is said of newer models."""

TOOL_TOKENS: Final = 16
PART_FRAME_BYTES: Final = 6
"""A tag and a length."""

FORMATS: Final = {
    inference.RESPONSE_FORMAT_TYPE_JSON_OBJECT: "json_object",
    inference.RESPONSE_FORMAT_TYPE_JSON_SCHEMA: "json_schema",
}


class _Tokens(NamedTuple):
    """How many tokens there are: likely, and at most."""

    likely: int
    most: int


def needs_of(conversation: pb.Conversation) -> Needs:
    """Return the capabilities that are needed, by the field that needs each, and the tokens to read."""
    likely, most, fields = 0, TEMPLATE_TOKENS, dict(_of_sampling(conversation.sampling))
    for index, message in enumerate(conversation.messages):
        path = f"messages[{index}]"
        tokens = _of_parts(message, f"{path}.content", fields) if message.parts else _of_text(message)
        likely, most = likely + tokens.likely, most + tokens.most + MESSAGE_TOKENS
        if message.tool_calls or message.tool_call_id:
            fields.setdefault("tools", path)
    if conversation.HasField("options"):
        options = conversation.options
        fields |= _of_options(options)
        tokens = _of_text(options)
        likely, most = likely + tokens.likely, most + tokens.most
        if options.tools:
            most += TOOLS_TOKENS + TOOL_TOKENS * len(options.tools)
    return Needs(frozenset(fields), likely, conversation.sampling.max_tokens, fields, most_input_tokens=most)


def _of_sampling(sampling: inference.SamplingParameters) -> Iterator[tuple[str, str]]:
    for field, value in sampling.ListFields():
        if field.name in {"stop", "seed", "logprobs", "logit_bias"}:
            yield field.name, field.name
        elif field.name == "n" and value > 1:
            yield "n", "n"
        elif field.name.endswith("_penalty") and value:
            yield "penalties", field.name


def _of_options(options: inference.ChatOptions) -> dict[str, str]:
    found = {"tools": "tools"} if options.tools else {}
    form = FORMATS.get(options.response_format.type)
    return found | ({form: "response_format"} if form else {})


def _of_text(message: inference.Message | inference.ContentPart | inference.ChatOptions) -> _Tokens:
    """Count a message of texts with its framing, which stands for the role and what ends it."""
    written = message.SerializeToString()
    return _Tokens(len(written) // BYTES_PER_TOKEN + 1, most_tokens(written))


def _beside_parts(message: inference.Message) -> int:
    """Return the bytes of what stands beside the parts, and of their frames: measuring a picture would copy it."""
    beside = inference.Message(role=message.role, content=message.content, name=message.name, refusal=message.refusal)
    beside.tool_call_id = message.tool_call_id
    beside.tool_calls.extend(message.tool_calls)
    return beside.ByteSize() + PART_FRAME_BYTES * len(message.parts)


def _of_parts(message: inference.Message, path: str, fields: dict[str, str]) -> _Tokens:
    likely, most, beside = 1, 0, _beside_parts(message)
    for index, part in enumerate(message.parts):
        match part.WhichOneof("part"):
            case "image":
                fields.setdefault("vision", f"{path}[{index}]")
                likely += LOW_IMAGE_TOKENS if part.image.detail == "low" else IMAGE_TOKENS
                most += MOST_IMAGE_TOKENS
            case "audio":
                fields.setdefault("audio", f"{path}[{index}]")
                likely += len(part.audio.content) // AUDIO_CHARS_PER_TOKEN + 1
                most += len(part.audio.content) // FEWEST_AUDIO_CHARS_PER_TOKEN + 1
            case _:
                tokens = _of_text(part)
                likely, most = likely + tokens.likely, most + tokens.most
    return _Tokens(likely + beside // BYTES_PER_TOKEN, most + beside)
