"""The chat request of OpenAI's schema: what is honoured, what is harmless, and what is refused by name."""

from typing import Annotated, Any, Final, Literal

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from pydantic import Field
from servicekit.errors import InvalidInput

from gateway.api.body import INT64_MAX, INT64_MIN, UINT32_MAX, Body
from gateway.api.errors import UnsupportedParameter, field_path

Tokens = Annotated[int, Field(ge=1, le=UINT32_MAX)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Unsupported = Annotated[Any, Field(description="Not supported: anything but its default is refused.")]
Ignored = Annotated[Any, Field(description="Accepted and not used: it does not change the answer.")]


class TextPart(Body):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One turn. `developer` is read as `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[None] | None, Field(max_length=0)] = None
    annotations: Annotated[list[None] | None, Field(max_length=0)] = None

    def text(self) -> str:
        """Return the turn's text; parts are joined by a line break."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(Body):
    """How a stream is given."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


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
    """A conversation to go on with. `model` is a catalogue model, or `rag:` and the name of a knowledge base."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Tokens | None = None
    metadata: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    user: Ignored = None
    audio: Unsupported = None
    frequency_penalty: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    logit_bias: Unsupported = None
    logprobs: Unsupported = None
    modalities: Unsupported = None
    moderation: Unsupported = None
    n: Unsupported = None
    parallel_tool_calls: Unsupported = None
    prediction: Unsupported = None
    presence_penalty: Unsupported = None
    prompt_cache_options: Unsupported = None
    reasoning_effort: Unsupported = None
    response_format: Unsupported = None
    service_tier: Unsupported = None
    store: Unsupported = None
    tool_choice: Unsupported = None
    tools: Unsupported = None
    top_logprobs: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    def conversation(self) -> pb.Conversation:
        """Return the typed conversation; raise InvalidInput for what nothing here honours."""
        self._refuse_unsupported()
        sampling = self.sampling()
        if self.max_completion_tokens is not None:
            if self.max_tokens is not None:
                raise InvalidInput("give max_completion_tokens or max_tokens, not both", field="max_tokens")
            sampling.max_tokens = self.max_completion_tokens
        turns = [
            inference.Message(role="system" if turn.role == "developer" else turn.role, content=turn.text())
            for turn in self.messages
        ]
        return pb.Conversation(model=self.model, messages=turns, sampling=sampling)

    def _refuse_unsupported(self) -> None:
        for name in self.model_fields_set & DEFAULTS.keys():
            value = getattr(self, name)
            if value is not None and not any(_same(value, default) for default in DEFAULTS[name]):
                raise UnsupportedParameter(f"{name} is not supported", field=field_path([name]))


DEFAULTS: Final[dict[str, tuple[Any, ...]]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_options": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters that nothing here honours, with the values that ask for nothing; null always does."""


def _same(value: Any, default: Any) -> bool:
    """Compare without taking 1 for true."""
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == default)
