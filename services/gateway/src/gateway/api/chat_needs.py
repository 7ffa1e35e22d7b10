"""What a conversation needs of the model that goes on with it."""

from collections.abc import Iterator
from typing import Final

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference

from gateway.core.routes import Needs

BYTES_PER_TOKEN: Final = 4
LOW_IMAGE_TOKENS: Final = 85
IMAGE_TOKENS: Final = 1_105
"""What GPT-4o reads of an image of 2,048 x 4,096 pixels, the larger example of OpenAI's guide to vision."""
AUDIO_CHARS_PER_TOKEN: Final = 4_000
FORMATS: Final = {
    inference.RESPONSE_FORMAT_TYPE_JSON_OBJECT: "json_object",
    inference.RESPONSE_FORMAT_TYPE_JSON_SCHEMA: "json_schema",
}


def needs_of(conversation: pb.Conversation) -> Needs:
    """Return the capabilities that are needed, by the field that needs each, and an estimate of the tokens to read."""
    tokens, fields = 0, dict(_of_sampling(conversation.sampling))
    for index, message in enumerate(conversation.messages):
        if message.parts:
            tokens += _parts_tokens(message, f"messages[{index}].content", fields)
        else:
            tokens += message.ByteSize() // BYTES_PER_TOKEN + 1
        if message.tool_calls or message.tool_call_id:
            fields.setdefault("tools", f"messages[{index}]")
    if conversation.HasField("options"):
        fields |= _of_options(conversation.options)
        tokens += conversation.options.ByteSize() // BYTES_PER_TOKEN
    return Needs(frozenset(fields), tokens, conversation.sampling.max_tokens, fields)


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


def _parts_tokens(message: inference.Message, path: str, fields: dict[str, str]) -> int:
    tokens = 1
    for index, part in enumerate(message.parts):
        match part.WhichOneof("part"):
            case "image":
                fields.setdefault("vision", f"{path}[{index}]")
                tokens += LOW_IMAGE_TOKENS if part.image.detail == "low" else IMAGE_TOKENS
            case "audio":
                fields.setdefault("audio", f"{path}[{index}]")
                tokens += len(part.audio.content) // AUDIO_CHARS_PER_TOKEN + 1
            case _:
                tokens += part.ByteSize() // BYTES_PER_TOKEN + 1
    return tokens
