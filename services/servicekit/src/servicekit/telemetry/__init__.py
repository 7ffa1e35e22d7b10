"""Traces, metrics and logs."""

from servicekit.telemetry.tracing import AttributeValue, Kind, Span, propagated, span, trace_id, traceparent

__all__ = ["AttributeValue", "Kind", "Span", "propagated", "span", "trace_id", "traceparent"]
