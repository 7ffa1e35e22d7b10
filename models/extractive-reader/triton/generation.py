"""The vLLM backend's conventions: how an answer in parts becomes outputs within a token limit."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class BadRequest(ValueError):
    """A request's tensors contradict each other or hold a wrong value; the message is for its caller."""


class Encoding(Protocol):
    """A tokenised text: one pair of character offsets per token."""

    offsets: Sequence[tuple[int, int]]


class Tokenizer(Protocol):
    """Cuts text into tokens."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Encoding:
        """Return the tokens of `sequence`."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a request asks for besides its text; `max_tokens` None means as many as the answer has."""

    stream: bool = False
    prepend_input: bool = False
    max_tokens: int | None = None

    @classmethod
    def of(cls, stream: bool, exclude_input: bool | None, sampling_parameters: str | None) -> "Options":
        """Return the options; the input is left out by default only when streaming, as vLLM does. BadRequest."""
        if stream and exclude_input is False:
            raise BadRequest("exclude_input_in_output must not be false when stream is true")
        prepend = not stream if exclude_input is None else not exclude_input
        return cls(stream, prepend, read_max_tokens(sampling_parameters))


def read_max_tokens(sampling_parameters: str | None) -> int | None:
    """Return max_tokens of the JSON object or None; other parameters steer a generator: ignored. BadRequest."""
    if not sampling_parameters:
        return None
    try:
        parameters = json.loads(sampling_parameters)
    except ValueError as error:
        raise BadRequest(f"sampling_parameters is not JSON: {error}") from error
    if not isinstance(parameters, dict):
        raise BadRequest("sampling_parameters is not a JSON object")
    limit = parameters.get("max_tokens")
    if limit is None:
        return None
    try:
        tokens = int(limit)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"sampling_parameters: max_tokens is {limit!r}, not a number") from error
    if isinstance(limit, bool) or tokens < 1:
        raise BadRequest(f"sampling_parameters: max_tokens is {limit!r}; at least 1 is needed")
    return tokens


@dataclass(frozen=True, slots=True)
class Output:
    """One piece of text, its tokens, and "stop" or "length" on the last piece of an answer."""

    text: str
    tokens: int
    finish_reason: str | None


def limit_tokens(parts: Sequence[str], tokenizer: Tokenizer, max_tokens: int | None) -> Iterator[Output]:
    """Yield one output per part, and cut the answer after `max_tokens` tokens."""
    left = max_tokens
    for number, part in enumerate(parts, 1):
        offsets = tokenizer.encode(part, add_special_tokens=False).offsets
        if left is not None and len(offsets) > left:
            yield Output(part[: offsets[left - 1][1]], left, "length")
            return
        left = None if left is None else left - len(offsets)
        last = number == len(parts)
        if not last and left == 0:
            yield Output(part, len(offsets), "length")
            return
        yield Output(part, len(offsets), "stop" if last else None)


def join(outputs: Sequence[Output], prefix: str = "") -> Output:
    """Return the outputs of one answer as a single one, after `prefix`, which counts no tokens."""
    text = prefix + "".join(output.text for output in outputs)
    return Output(text, sum(output.tokens for output in outputs), outputs[-1].finish_reason)
