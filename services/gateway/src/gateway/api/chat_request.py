"""The chat request of OpenAI's schema: what is honoured, what is harmless, and what is refused by name."""

import json
from typing import Annotated, Any, Final, Literal

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from pydantic import ConfigDict, Field, ValidationError
from servicekit.errors import InvalidInput

from gateway.api.body import INT64_MAX, INT64_MIN, UINT32_MAX, Body
from gateway.api.chat_messages import ChatMessage
from gateway.api.chat_rules import TOOL_NAME
from gateway.api.errors import UnsupportedParameter, invalid
from gateway.core.structured import parse_json

Tokens = Annotated[int, Field(ge=1, le=UINT32_MAX)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
FunctionName = Annotated[str, Field(pattern=TOOL_NAME)]
Unsupported = Annotated[Any, Field(description="Not supported: anything but its default is refused.")]
Ignored = Annotated[Any, Field(description="Accepted and not used: it does not change the answer.")]
Carried = Annotated[Any, Field(description="For models of an upstream, which gets it as it is; others refuse it.")]

LONGEST_MESSAGE: Final = 300
MODES: Final = {"auto": inference.TOOL_MODE_AUTO, "none": inference.TOOL_MODE_NONE}
CHOICES: Final = MODES | {"required": inference.TOOL_MODE_REQUIRED}
FORMATS: Final = {
    "text": inference.RESPONSE_FORMAT_TYPE_UNSPECIFIED,
    "json_object": inference.RESPONSE_FORMAT_TYPE_JSON_OBJECT,
    "json_schema": inference.RESPONSE_FORMAT_TYPE_JSON_SCHEMA,
}


class StreamOptions(Body):
    """How a stream is given."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Function(Body):
    """A function that the model may ask to be called. `strict`: its arguments have to match `parameters`."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class JsonSchema(Body):
    """A form that the answer has to have. It is checked, `strict` or not."""

    name: FunctionName
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    """What form the answer has to have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Sampling(Body):
    """How to sample; what is absent is left to the model."""

    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)] | None = None

    def sampling(self) -> inference.SamplingParameters:
        """Return the parameters as the model pool takes them."""
        return inference.SamplingParameters(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop,
            seed=self.seed,
        )


class ChatRequest(Sampling):
    """A conversation to go on with. `model` is a model, an alias of models, or `rag:` and a knowledge base.

    Fields that OpenAI's schema does not have go to models of an upstream as they are, or are refused by name: the
    gateway's policy says which.
    """

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern="^[0-9]{1,7}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024),
        ]
        | None
    ) = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Annotated[
        Any, Field(description="`none`, `auto`, `required`, or the function to call as OpenAI's schema names it.")
    ] = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    metadata: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    user: Ignored = None
    prediction: Carried = None
    reasoning_effort: Carried = None
    verbosity: Carried = None
    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    modalities: Unsupported = None
    moderation: Unsupported = None
    prompt_cache_options: Unsupported = None
    service_tier: Unsupported = None
    store: Unsupported = None
    web_search_options: Unsupported = None

    def conversation(self) -> pb.Conversation:
        """Return the typed conversation; raise InvalidInput for what nothing here honours."""
        self._refuse_unsupported()
        conversation = pb.Conversation(
            model=self.model,
            sampling=self.sampling(),
            options=self._options() if ASKING & self.model_fields_set or self.model_extra else None,
        )
        for index, turn in enumerate(self.messages):
            turn.fill(conversation.messages.add(), f"messages[{index}]")
        return conversation

    def sampling(self) -> inference.SamplingParameters:
        """Return the parameters as the model pool takes them."""
        sampling = super().sampling()
        if self.max_completion_tokens is not None:
            if self.max_tokens is not None:
                raise InvalidInput("give max_completion_tokens or max_tokens, not both", field="max_tokens")
            sampling.max_tokens = self.max_completion_tokens
        if SAMPLING & self.model_fields_set:
            sampling.MergeFrom(self._rarer_sampling())
        return sampling

    def _rarer_sampling(self) -> inference.SamplingParameters:
        return inference.SamplingParameters(
            n=self.n,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logprobs=bool(self.logprobs),
            top_logprobs=self.top_logprobs if self.logprobs or self.top_logprobs else None,
            logit_bias=self.logit_bias,
        )

    def _options(self) -> inference.ChatOptions | None:
        options = inference.ChatOptions()
        if self.tools:
            options.tools.extend(_tool(tool, f"tools[{index}]") for index, tool in enumerate(self.tools))
            if self.parallel_tool_calls is not None:
                options.parallel_tool_calls = self.parallel_tool_calls
        choice = _tool_choice(self.tool_choice)
        if choice is not None and (self.tools or choice.mode not in MODES.values()):
            options.tool_choice.CopyFrom(choice)
        if self.response_format is not None and self.response_format.type != "text":
            options.response_format.CopyFrom(_response_format(self.response_format))
        extra = self._extra()
        if extra:
            options.extra_json = json_text(extra, next(iter(extra)))
        return options if options.ByteSize() else None

    def _extra(self) -> dict[str, Any]:
        extra = dict(self.model_extra or {})
        for name in CARRIED & self.model_fields_set:
            value = getattr(self, name)
            if value is not None and not any(_same(value, default) for default in CARRIED_DEFAULTS.get(name, ())):
                extra[name] = value
        return extra

    def _refuse_unsupported(self) -> None:
        for name in DEFAULTS.keys() & self.model_fields_set:
            value = getattr(self, name)
            if value is not None and not any(_same(value, default) for default in DEFAULTS[name]):
                raise UnsupportedParameter(f"{name} is not supported", field=name)


def parse_chat(body: bytes, *, ignore_unknown: bool = False) -> ChatRequest:
    """Return a body as a request; raise InvalidInput for what is no JSON, has a name twice, or names the field.

    What OpenAI's schema does not have is dropped, at whichever depth, when told to.
    """
    try:
        return ChatRequest.model_validate(parse_json(body), extra="ignore" if ignore_unknown else None)
    except ValidationError as error:
        raise invalid(error) from error
    except ValueError as error:
        raise InvalidInput(f"the body is not JSON: {error}"[:LONGEST_MESSAGE], reason="malformed_json") from error


SAMPLING: Final = frozenset({"n", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"})
CARRIED: Final = frozenset({"prediction", "reasoning_effort", "verbosity"})
ASKING: Final = CARRIED | {"tools", "tool_choice", "parallel_tool_calls", "response_format"}
CARRIED_DEFAULTS: Final[dict[str, tuple[Any, ...]]] = {"verbosity": ("medium",)}
DEFAULTS: Final[dict[str, tuple[Any, ...]]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prompt_cache_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "web_search_options": (),
}
"""Parameters that nothing here honours, with the values that ask for nothing; null always does."""


def json_text(value: Any, field: str) -> str:
    """Return values as JSON text; raise InvalidInput for a number that JSON does not have."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise InvalidInput("a number is too large", field=field) from error


def _tool(tool: Tool, path: str) -> inference.Tool:
    function = tool.function
    parameters = function.parameters
    return inference.Tool(
        name=function.name,
        description=function.description or "",
        parameters_json="" if parameters is None else json_text(parameters, f"{path}.function.parameters"),
        strict=function.strict,
    )


def _tool_choice(choice: Any) -> inference.ToolChoice | None:
    match choice:
        case None:
            return None
        case str() if choice in CHOICES:
            return inference.ToolChoice(mode=CHOICES[choice])
        case {"type": "function", "function": {"name": str(name), **more_of_it}, **more} if not more and not more_of_it:
            return inference.ToolChoice(mode=inference.TOOL_MODE_FUNCTION, name=name)
        case {"type": ("allowed_tools" | "custom") as kind}:
            raise UnsupportedParameter(f"a choice of type {kind} is not supported", field="tool_choice.type")
    raise InvalidInput("tool_choice is none, auto, required or a named function", field="tool_choice")


def _response_format(asked: ResponseFormat) -> inference.ResponseFormat:
    schema = asked.json_schema
    if asked.type != "json_schema":
        return inference.ResponseFormat(type=FORMATS[asked.type])
    if schema is None or schema.schema_ is None:
        missing = "response_format.json_schema" + ("" if schema is None else ".schema")
        raise InvalidInput(f"{missing!r} is missing", reason="missing_parameter", field=missing)
    return inference.ResponseFormat(
        type=FORMATS[asked.type],
        name=schema.name,
        description=schema.description or "",
        schema_json=json_text(schema.schema_, "response_format.json_schema.schema"),
        strict=schema.strict,
    )


def _same(value: Any, default: Any) -> bool:
    """Compare without taking 1 for true."""
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == default)
