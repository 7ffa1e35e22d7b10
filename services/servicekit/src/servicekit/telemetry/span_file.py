"""Appends finished spans to a file, so that a laptop has traces without a collector."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

ROTATE_BYTES = 64 * 1024 * 1024


def span_line(span: ReadableSpan) -> bytes:
    """Return a span as one line of JSON: ids in hexadecimal, times in nanoseconds since 1970."""
    context, parent = span.get_span_context(), span.parent
    fields: dict[str, Any] = {
        "trace_id": format(context.trace_id, "032x") if context else "",
        "span_id": format(context.span_id, "016x") if context else "",
        "parent_id": format(parent.span_id, "016x") if parent else None,
        "name": span.name,
        "kind": span.kind.name,
        "service": span.resource.attributes.get("service.name", ""),
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name,
        "message": span.status.description,
        "attributes": dict(span.attributes or {}),
        "links": [format(link.context.span_id, "016x") for link in span.links],
    }
    return orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE)


class FileSpanExporter(SpanExporter):
    """Writes spans of all services of a machine to one file; a line is written whole, so writers do not mix.

    The file is moved aside to `NAME.1` when it has grown past 64 MiB.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append spans; a full disk loses them and says so to the caller, who counts."""
        lines = b"".join(span_line(span) for span in spans)
        try:
            with self._lock, self._path.open("ab", buffering=0) as file:
                file.write(lines)
                if file.tell() > ROTATE_BYTES:
                    self._path.replace(self._path.with_name(self._path.name + ".1"))
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is held open."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002  the interface's signature
        """Nothing is held back."""
        return True
