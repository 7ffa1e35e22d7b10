"""Spans: one function to open one, and W3C context in and out of the process."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from servicekit.errors import PenstockError
from servicekit.telemetry.genai import ERROR_TYPE, SEMCONV_SCHEMA_URL

AttributeValue = str | bool | int | float | Sequence[str]
TRACEPARENT: Final = "traceparent"

_tracer = trace.get_tracer("penstock", schema_url=SEMCONV_SCHEMA_URL)
_w3c = TraceContextTextMapPropagator()


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


@contextmanager
def span(
    name: str,
    kind: Kind = Kind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
    parent: str | None = None,
) -> Iterator[Span]:
    """Open a span around the block, a child of the current one or of the W3C `parent`; failures are marked on it.

    Inside a trace that is not recorded nothing is opened: most are not, and a span costs 15 microseconds even then.
    """
    start = otel_context.get_current() if parent is None else _w3c.extract({TRACEPARENT: parent})
    opened, context = trace.get_current_span(start), start
    if not _is_left_out(opened):
        opened = _tracer.start_span(name, start, kind=kind.value, attributes=attributes)
        context = trace.set_span_in_context(opened, start)
    elif parent is None:
        yield NOT_RECORDED
        return
    token = otel_context.attach(context)
    wrapped = Span(opened)
    try:
        yield wrapped
    except GeneratorExit:  # whoever read the stream has enough; nothing failed
        raise
    except BaseException as error:
        wrapped.fail(error)
        raise
    finally:
        if trace.get_current_span() is opened:  # a generator that is closed from another task leaves that one's alone
            otel_context.detach(token)
        opened.end()


def _is_left_out(around: trace.Span) -> bool:
    """Tell whether a span belongs to a trace that was decided not to be recorded."""
    context = around.get_span_context()
    return context.is_valid and not context.trace_flags.sampled


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
