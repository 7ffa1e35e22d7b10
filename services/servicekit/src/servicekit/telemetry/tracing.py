"""Spans: one function to open one, and W3C context in and out of the process."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from random import getrandbits, random
from types import TracebackType
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from servicekit.errors import PenstockError
from servicekit.telemetry.genai import ERROR_TYPE, SEMCONV_SCHEMA_URL

AttributeValue = str | bool | int | float | Sequence[str]
TRACEPARENT: Final = "traceparent"

_tracer = trace.get_tracer("penstock", schema_url=SEMCONV_SCHEMA_URL)
_w3c = TraceContextTextMapPropagator()
_UNRECORDED: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-00")


class Kind(Enum):
    """Which side of a call a span is."""

    INTERNAL = SpanKind.INTERNAL
    SERVER = SpanKind.SERVER
    CLIENT = SpanKind.CLIENT


class Span:
    """A span that is open; what is set on it is seen in the trace."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, name: str, value: AttributeValue | None) -> None:
        """Set an attribute; None sets nothing."""
        if value is not None:
            self._span.set_attribute(name, value)

    def fail(self, error: BaseException) -> None:
        """Mark the span as failed by `error`; messages of bugs are left out, they may hold anything."""
        known = isinstance(error, PenstockError)
        self._span.set_attribute(ERROR_TYPE, error.reason if isinstance(error, PenstockError) else type(error).__name__)
        self._span.set_status(Status(StatusCode.ERROR, str(error) if known else None))


NOT_RECORDED: Final = Span(trace.INVALID_SPAN)


class Roots:
    """How many of the traces that begin here are recorded: `ratio`, 0 to 1. Whoever begins a trace decides for all."""

    def __init__(self) -> None:
        self.ratio = 1.0

    def chosen(self) -> bool:
        """Decide for the next one."""
        return self.ratio >= 1.0 or random() < self.ratio


ROOTS: Final = Roots()


def span(
    name: str,
    kind: Kind = Kind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
    parent: str | None = None,
) -> AbstractContextManager[Span]:
    """Return a span to open around a block, a child of the current one or of the W3C `parent`; failures are marked.

    A trace that is not recorded, as most are not, has an id and no spans: the SDK takes 15 microseconds for one that it
    then drops.
    """
    if parent is None:
        around = trace.get_current_span().get_span_context()
        if around.is_valid:
            if not around.trace_flags.sampled:
                return _INSIDE_LEFT_OUT
        elif not ROOTS.chosen():
            return _LeftOut(getrandbits(128) or 1, getrandbits(64) or 1)
        start = otel_context.get_current()
    else:
        left_out = _UNRECORDED.fullmatch(parent)
        if left_out is not None:
            return _LeftOut(int(left_out[1], 16), int(left_out[2], 16))
        start = _w3c.extract({TRACEPARENT: parent})
        if not trace.get_current_span(start).get_span_context().is_valid and not ROOTS.chosen():
            return _LeftOut(getrandbits(128) or 1, getrandbits(64) or 1)
    return _Recorded(_tracer.start_span(name, start, kind=kind.value, attributes=attributes), start)


class _Current:
    """Makes a span the current one inside a block."""

    __slots__ = ("_context", "_opened", "_token")
    _token: Any

    def __init__(self, opened: trace.Span, around: Context) -> None:
        self._opened = opened
        self._context = trace.set_span_in_context(opened, around)

    def _attach(self) -> None:
        self._token = otel_context.attach(self._context)

    def _detach(self) -> None:
        if trace.get_current_span() is self._opened:  # a generator closed from another task leaves that one's alone
            otel_context.detach(self._token)


class _Recorded(_Current):
    """A span that is exported when it ends."""

    __slots__ = ()

    def __enter__(self) -> Span:
        self._attach()
        return Span(self._opened)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # whoever stopped reading a stream had enough: nothing failed
        if error is not None and kind is not GeneratorExit:
            Span(self._opened).fail(error)
        self._detach()
        self._opened.end()


class _LeftOut(_Current):
    """The place of a span in a trace that is not recorded: what is called inside learns of the decision."""

    __slots__ = ()

    def __init__(self, trace_id: int, span_id: int) -> None:
        context = trace.SpanContext(trace_id, span_id, is_remote=False)
        super().__init__(trace.NonRecordingSpan(context), otel_context.get_current())

    def __enter__(self) -> Span:
        self._attach()
        return NOT_RECORDED

    def __exit__(self, *_: object) -> None:
        self._detach()


_INSIDE_LEFT_OUT: Final = nullcontext(NOT_RECORDED)


def trace_id() -> str:
    """Return the current trace id in hexadecimal, or the empty string."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


def traceparent() -> str | None:
    """Return the W3C header for a hop that is not ours, or None when the trace is not recorded.

    Triton records whatever carries a valid context, sampled or not (server#8474), so the unsampled send none.
    """
    context = trace.get_current_span().get_span_context()
    return _header(context) if context.is_valid and context.trace_flags.sampled else None


def propagated() -> str | None:
    """Return the W3C header for the next service, sampled or not, so that the decision is made once."""
    context = trace.get_current_span().get_span_context()
    return _header(context) if context.is_valid else None


def _header(context: trace.SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
