"""What a chat may ask of a model beyond text for text, and the refusal of what a model cannot do."""

from collections.abc import Iterator
from typing import ClassVar, Final

from servicekit.errors import InvalidInput

from inference.core.conversation import Audio, Image, Text, Turn
from inference.core.generation import ChatOptions, JsonObject, JsonSchema, Order, Sampling

ALL: Final = frozenset(
    {
        *("tools", "json_schema", "json_object", "vision", "audio", "logprobs"),
        *("n", "seed", "stop", "logit_bias", "penalties"),
    }
)
HOSTED: Final = ALL - {"audio"}
"""What a model of an upstream can do when the catalogue does not say."""
PLAIN: Final = frozenset({"seed", "stop"})
"""What a text model can do when the catalogue does not say."""


class UnsupportedParameter(InvalidInput):
    """The model cannot do what a field of the request asks for; the field is named as in OpenAI's schema."""

    default_reason: ClassVar[str] = "unsupported_parameter"


def refuse_beyond(order: Order, capabilities: frozenset[str], model: str) -> None:
    """Raise UnsupportedParameter for the first thing that an order asks for and `capabilities` lacks."""
    for capability, field in needs(order):
        if capability not in capabilities:
            raise UnsupportedParameter(f"the model {model} does not support {field}", field=field)


def needs(order: Order) -> Iterator[tuple[str, str]]:
    """Yield each capability an order needs with the field that needs it."""
    yield from _of_sampling(order.sampling)
    if order.options is not None:
        yield from _of_options(order.options)
    for index, turn in enumerate(order.turns):
        if turn.parts or turn.tool_calls or turn.tool_call_id:
            yield from _of_turn(turn, f"messages[{index}]")


def _of_sampling(sampling: Sampling) -> Iterator[tuple[str, str]]:
    if sampling.stop:
        yield "stop", "stop"
    if sampling.seed is not None:
        yield "seed", "seed"
    if sampling.n is not None and sampling.n > 1:
        yield "n", "n"
    if sampling.logprobs:
        yield "logprobs", "logprobs"
    if sampling.logit_bias:
        yield "logit_bias", "logit_bias"
    if sampling.presence_penalty:
        yield "penalties", "presence_penalty"
    if sampling.frequency_penalty:
        yield "penalties", "frequency_penalty"


def _of_options(options: ChatOptions) -> Iterator[tuple[str, str]]:
    if options.tools:
        yield "tools", "tools"
    if isinstance(options.response_format, JsonSchema):
        yield "json_schema", "response_format"
    elif isinstance(options.response_format, JsonObject):
        yield "json_object", "response_format"


def _of_turn(turn: Turn, path: str) -> Iterator[tuple[str, str]]:
    if turn.tool_calls or turn.tool_call_id:
        yield "tools", f"{path}.tool_calls" if turn.tool_calls else f"{path}.role"
    for index, part in enumerate(turn.parts):
        if not isinstance(part, Text):
            needed = {Image: "vision", Audio: "audio"}[type(part)]
            yield needed, f"{path}.content[{index}]"
