"""What a request to write text may ask for, and the bounds of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from servicekit.errors import InvalidInput

from inference.core.conversation import Turn, check_turns

MAX_STOPS: Final = 4
MAX_STOP_CHARACTERS: Final = 256
MAX_CHOICES: Final = 128
MAX_TOP_LOGPROBS: Final = 20
MAX_BIASES: Final = 1024
MAX_TOOLS: Final = 128
FUNCTION_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
TOKEN_ID: Final = re.compile(r"[0-9]{1,10}\Z")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None leaves a choice to the next one who has a say."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    logit_bias: Mapping[str, float] | None = None

    def check(self) -> None:
        """Raise InvalidInput, naming the field, when a value is out of its range."""
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidInput("max_tokens has to be 1 or more", field="sampling.max_tokens")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise InvalidInput("temperature has to be from 0 to 2", field="sampling.temperature")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidInput("top_p has to be above 0 and at most 1", field="sampling.top_p")
        if len(self.stop) > MAX_STOPS:
            raise InvalidInput(f"at most {MAX_STOPS} stop texts are allowed", field="sampling.stop")
        for index, text in enumerate(self.stop):
            if not 0 < len(text) <= MAX_STOP_CHARACTERS:
                raise InvalidInput(
                    f"a stop text has 1 to {MAX_STOP_CHARACTERS} characters", field=f"sampling.stop[{index}]"
                )
        self._check_rare()

    def over(self, default: "Sampling", context_tokens: int, *, fill: bool = False) -> "Sampling":
        """Return this with the gaps filled from a model's default, and max_tokens within its context (0: unknown).

        With `fill`, max_tokens that nobody has named is the context, for backends whose own default is a few words.
        """
        max_tokens = default.max_tokens if self.max_tokens is None else self.max_tokens
        if context_tokens and max_tokens is None:
            max_tokens = context_tokens if fill else None
        elif context_tokens and max_tokens is not None:
            max_tokens = min(max_tokens, context_tokens)
        return Sampling(
            max_tokens,
            default.temperature if self.temperature is None else self.temperature,
            default.top_p if self.top_p is None else self.top_p,
            self.stop or default.stop,
            default.seed if self.seed is None else self.seed,
            self.n,
            self.presence_penalty,
            self.frequency_penalty,
            self.logprobs,
            self.top_logprobs,
            self.logit_bias,
        )

    def _check_rare(self) -> None:
        if self.n is not None and not 1 <= self.n <= MAX_CHOICES:
            raise InvalidInput(f"n has to be from 1 to {MAX_CHOICES}", field="sampling.n")
        for name in ("presence_penalty", "frequency_penalty"):
            value: float | None = getattr(self, name)
            if value is not None and not -2 <= value <= 2:
                raise InvalidInput(f"{name} has to be from -2 to 2", field=f"sampling.{name}")
        if self.top_logprobs is not None and not (self.logprobs and 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS):
            raise InvalidInput(
                f"top_logprobs has to be from 0 to {MAX_TOP_LOGPROBS}, with logprobs", field="sampling.top_logprobs"
            )
        if self.logit_bias:
            _check_bias(self.logit_bias)


def _check_bias(biases: Mapping[str, float]) -> None:
    if len(biases) > MAX_BIASES:
        raise InvalidInput(f"at most {MAX_BIASES} tokens can be biased", field="sampling.logit_bias")
    for token, bias in biases.items():
        if not TOKEN_ID.match(token):
            raise InvalidInput("logit_bias is by token id, a number", field="sampling.logit_bias")
        if not -100 <= bias <= 100:
            raise InvalidInput("a bias has to be from -100 to 100", field=f"sampling.logit_bias[{token}]")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to be called; `parameters_json` is a JSON Schema, or empty."""

    name: str
    description: str = ""
    parameters_json: str = ""
    strict: bool | None = None


class ToolMode(Enum):
    """Whether tools have to be called."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether, and which, tools have to be called; `name` goes with FUNCTION alone."""

    mode: ToolMode
    name: str = ""


@dataclass(frozen=True, slots=True)
class JsonObject:
    """The answer has to be any JSON object."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer has to be JSON that matches `schema_json`."""

    name: str
    schema_json: str
    description: str = ""
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What may be asked beyond text for text; `extra_json` is an object of fields for the model's host, or empty."""

    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: JsonObject | JsonSchema | None = None
    extra_json: str = ""

    def check(self) -> None:
        """Raise InvalidInput, naming the field, when an option is not what it may be."""
        if self.tools or self.tool_choice is not None or self.parallel_tool_calls is not None:
            self._check_tools()
        wanted = self.response_format
        if isinstance(wanted, JsonSchema):
            if not FUNCTION_NAME.match(wanted.name):
                raise InvalidInput(
                    "a schema's name has 1 to 64 letters, digits, _ or -", field="response_format.json_schema.name"
                )
            if not wanted.schema_json:
                raise InvalidInput("the schema is missing", field="response_format.json_schema.schema")

    def _check_tools(self) -> None:
        if len(self.tools) > MAX_TOOLS:
            raise InvalidInput(f"at most {MAX_TOOLS} tools are allowed", field="tools")
        names = {tool.name for tool in self.tools}
        for index, tool in enumerate(self.tools):
            if not FUNCTION_NAME.match(tool.name):
                raise InvalidInput(
                    "a function's name has 1 to 64 letters, digits, _ or -", field=f"tools[{index}].function.name"
                )
        if self.parallel_tool_calls is not None and not names:
            raise InvalidInput("parallel_tool_calls needs tools", field="parallel_tool_calls")
        choice = self.tool_choice
        if choice is None or choice.mode is ToolMode.NONE:
            return
        if not names:
            raise InvalidInput("tool_choice needs tools", field="tool_choice")
        if choice.mode is ToolMode.FUNCTION and choice.name not in names:
            raise InvalidInput("tool_choice names no tool of the request", field="tool_choice.function.name")


@dataclass(frozen=True, slots=True)
class Order:
    """A request as a backend gets it, once it is checked and filled up."""

    turns: Sequence[Turn]
    sampling: Sampling = Sampling()
    options: ChatOptions | None = None

    def check(self) -> None:
        """Raise InvalidInput, naming the field, when any part of it is wrong in itself."""
        check_turns(self.turns)
        self.sampling.check()
        if self.options is not None:
            self.options.check()
