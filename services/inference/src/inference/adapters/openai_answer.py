"""Reads answers in OpenAI's schema, streamed or whole, and takes nothing for an answer that is not one."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NoReturn

import orjson
from servicekit.errors import Unavailable

from inference.core.answer import Answer, Choice, Delta, FinishReason, Piece, Served, TakeText, Usage
from inference.core.conversation import MAX_TOOL_CALLS, ToolCall, Turn
from inference.core.generation import Order
from inference.core.ports import BACKEND_FAILED

DONE: Final = b"[DONE]"
REASONS: Final = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.TOOL_CALLS,
}
LONGEST_MARK: Final = 200
MOST_EVENTS: Final = 262_144
"""Pieces of an answer when nothing bounds its tokens: twice the longest that any model writes."""
EVENTS_PER_TOKEN: Final = 8
SPARE_EVENTS: Final = 256
log = logging.getLogger(__name__)


def failed(name: str, why: str) -> Unavailable:
    """Return what a caller is told of an upstream that did not do its work."""
    return Unavailable(f"{name}: the upstream {why}", reason=BACKEND_FAILED, retry_after_s=1.0)


def untimed() -> float:
    """Say that nobody looked at the clock."""
    return 0.0


class _Choice:
    """How far one of the n answers has come."""

    __slots__ = ("calls", "finish_reason")

    def __init__(self) -> None:
        self.finish_reason: FinishReason | None = None
        self.calls: list[tuple[Any, Any]] = []
        """Index and id that the upstream gave to each call, in the order they began."""


class StreamedAnswer:
    """Collects what the events of one answer tell; `complete` once all of it is there."""

    def __init__(
        self,
        name: str,
        upstream_name: str,
        order: Order,
        took_s: Callable[[], float] = untimed,
        take: TakeText | None = None,
    ) -> None:
        """Take the model's name in the catalogue and at the upstream, what was asked for, and who knows since when.

        What `take` takes of the text is not returned.
        """
        self._took_s = took_s
        self._take = take
        self.complete = False
        self._name = name
        self._upstream_name = upstream_name
        self._choices = [_Choice() for _ in range(order.sampling.n or 1)]
        most = order.sampling.max_tokens
        self._events_left = (
            MOST_EVENTS if most is None else (most * EVENTS_PER_TOKEN + SPARE_EVENTS) * len(self._choices)
        )
        self._begun = False
        self._usage = Usage()

    def read(self, payloads: list[bytes]) -> Piece | None:
        """Return what came in together, or None when that was nothing to tell; raise Unavailable."""
        served: Served | None = None
        deltas: list[Delta] = []
        for payload in payloads:
            if payload == DONE:
                self.complete = True
                break
            try:
                event = orjson.loads(payload)
                if not self._begun:
                    served = self._begin(event)
                self._read(event, deltas, self._take if not (deltas or served) else None)
            except orjson.JSONDecodeError as error:
                raise failed(self._name, "sent an event that is not JSON") from error
            except (AttributeError, KeyError, TypeError) as error:
                raise failed(self._name, "sent an event of an unknown shape") from error
        if not (deltas or served or self.complete):
            return None
        return Piece(served, deltas, self.finished() if self.complete else None)

    def finished(self) -> Usage:
        """Return the tokens of an answer that has ended; raise Unavailable when it has not in every choice."""
        for choice in self._choices:
            if choice.finish_reason is None:
                raise failed(self._name, "ended without a finish reason")
            if choice.finish_reason is FinishReason.TOOL_CALLS and not choice.calls:
                raise failed(self._name, "spoke of tool calls and sent none")
        return replace(self._usage, backend_s=self._took_s())

    def _begin(self, event: Any) -> Served:
        served = _served(event, self._upstream_name)
        self._begun = True
        return served

    def _read(self, event: Any, deltas: list[Delta], take: TakeText | None) -> None:
        """Take in one event and add what it tells, unless `take` takes it."""
        if event.get("error"):
            log.warning("the upstream of %s sent an error in its stream", self._name)
            raise failed(self._name, "sent an error in its stream")
        if usage := event.get("usage"):
            self._usage = read_usage(usage)
        for choice in event.get("choices") or ():
            if take is not None and not deltas and self._took(choice, take):
                self._events_left -= 1
            elif (delta := self._delta(choice)) is not None:
                deltas.append(delta)
                self._events_left -= 1
        if self._events_left < 0:
            raise failed(self._name, "wrote on beyond all that it was allowed to")

    def _took(self, choice: Any, take: TakeText) -> bool:
        """Tell whether a choice tells nothing but more text, and that was taken."""
        delta = choice.get("delta")
        if not delta or choice.get("finish_reason") is not None or choice.get("logprobs") is not None:
            return False
        text = delta.get("content")
        if type(text) is not str or not text or delta.get("tool_calls") or delta.get("refusal"):
            return False
        index = choice.get("index", 0)
        return self._state(index).finish_reason is None and take(index, text)

    def _delta(self, choice: Any) -> Delta | None:
        index = choice.get("index", 0)
        delta = choice.get("delta") or {}
        text, refusal = delta.get("content") or "", delta.get("refusal") or ""
        state = self._state(index)
        calls = self._calls(state, delta["tool_calls"]) if delta.get("tool_calls") else ()
        told = choice.get("logprobs")
        logprobs = orjson.dumps(told).decode() if told is not None else ""
        reason = choice.get("finish_reason")
        if not (isinstance(text, str) and isinstance(refusal, str)):
            raise TypeError
        if state.finish_reason is not None:
            if text or refusal or calls:
                raise failed(self._name, "wrote on after the end of its answer")
            return None
        if reason is not None:
            state.finish_reason = read_reason(self._name, reason)
        if not (text or reason or calls or refusal or logprobs):
            return None
        return Delta(text, state.finish_reason, index, calls, refusal, logprobs)

    def _state(self, index: Any) -> _Choice:
        if not (type(index) is int and 0 <= index < len(self._choices)):
            raise failed(self._name, "answered more often than it was asked")
        return self._choices[index]

    def _calls(self, state: _Choice, pieces: Any) -> tuple[ToolCall, ...]:
        return tuple(self._call(state, piece) for piece in pieces)

    def _call(self, state: _Choice, piece: Any) -> ToolCall:
        """Return a piece of a call under a dense index, with id and name in the first one alone."""
        function = piece.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments") or ""
        position = _position(state.calls, piece.get("index"), piece.get("id") if name else None)
        if not isinstance(arguments, str):
            raise TypeError
        if position is not None:
            return ToolCall(position, arguments=arguments)
        state.calls.append((piece.get("index"), piece.get("id")))
        if len(state.calls) > MAX_TOOL_CALLS:
            raise failed(self._name, "called more tools than anyone can want")
        return ToolCall(len(state.calls) - 1, _call_id(piece), _text(name), arguments)


def _position(calls: list[tuple[Any, Any]], index: Any, call_id: Any) -> int | None:
    """Return which of the calls a piece goes on with, or None when it begins another.

    Not every upstream counts: some leave the index out, or give each call 0 with an id of its own. `call_id` is that of
    a piece with a name; what has none goes on, whatever its id.
    """
    for position in range(len(calls) - 1, -1, -1):
        known_index, known_id = calls[position]
        if (known_index == index or index is None) and call_id in (None, "", known_id):
            return position
    return None


def read_whole(name: str, upstream_name: str, order: Order, body: bytes, took_s: float = 0.0) -> Answer:
    """Return an answer that came in one JSON body; raise Unavailable when it is not one, or not all of it.

    `took_s` is the seconds it took to come.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise failed(name, "sent a body that is not JSON") from error
    try:
        if document.get("error"):
            log.warning("the upstream of %s called an error a success", name)
            raise failed(name, "called an error a success")
        choices = sorted((_choice(name, each) for each in document.get("choices") or ()), key=lambda each: each.index)
        served = _served(document, upstream_name)
        usage = read_usage(document.get("usage") or {}, took_s)
    except (AttributeError, KeyError, TypeError) as error:
        raise failed(name, "sent a body of an unknown shape") from error
    if [choice.index for choice in choices] != list(range(order.sampling.n or 1)):
        raise failed(name, "did not answer as often as it was asked")
    return Answer(served, choices, usage)


def _choice(name: str, choice: Any) -> Choice:
    message, told = choice["message"], choice.get("logprobs")
    reason = read_reason(name, choice.get("finish_reason"))
    told_calls = message.get("tool_calls")
    calls = [_whole_call(*each) for each in enumerate(told_calls)] if told_calls else ()
    if reason is FinishReason.TOOL_CALLS and not calls:
        raise failed(name, "spoke of tool calls and sent none")
    content, refusal = message.get("content") or "", message.get("refusal") or ""
    turn = Turn("assistant", _text(content), tool_calls=calls, refusal=_text(refusal))
    logprobs = orjson.dumps(told).decode() if told is not None else ""
    return Choice(_integer(choice.get("index", 0)), turn, reason, logprobs)


def _whole_call(index: int, call: Any) -> ToolCall:
    function = call["function"]
    return ToolCall(index, _call_id(call), _text(function["name"]), _text(function.get("arguments") or ""))


def _call_id(call: Any) -> str:
    """Return a call's id; one that has none gets one, because its answer has to name it."""
    return _text(call.get("id") or f"call_{secrets.token_hex(12)}")


def read_reason(name: str, reason: Any) -> FinishReason:
    """Return why a choice ended; raise Unavailable for a reason that says it did not end well, or none."""
    if reason is None:
        raise failed(name, "ended without a finish reason")
    if reason not in REASONS:
        raise failed(name, f"ended with {str(reason)[:40]!r}")
    return REASONS[reason]


def read_usage(usage: Any, took_s: float = 0.0) -> Usage:
    """Return the tokens, and the seconds they took; counts that cannot be are as good as none."""
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (_is_count(read) and _is_count(written)):
        return Usage(backend_s=took_s)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    return Usage(
        read,
        written,
        reported=True,
        cached_input_tokens=min(cached, read) if _is_count(cached) else 0,
        reasoning_output_tokens=min(reasoning, written) if _is_count(reasoning) else 0,
        backend_s=took_s,
    )


def _served(document: Any, upstream_name: str) -> Served:
    model, mark, fingerprint = (_mark(document.get(name)) for name in ("model", "id", "system_fingerprint"))
    return Served(model or upstream_name, mark, fingerprint)


def _mark(value: Any) -> str:
    return value[:LONGEST_MARK] if isinstance(value, str) else ""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _integer(value: Any) -> int:
    return value if type(value) is int else _wrong_type()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _wrong_type()


def _wrong_type() -> NoReturn:
    raise TypeError
