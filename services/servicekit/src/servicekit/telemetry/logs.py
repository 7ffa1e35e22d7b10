"""One JSON object per log line, with the trace it belongs to."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

from servicekit.telemetry.tracing import trace_id


class JsonFormatter(logging.Formatter):
    """Writes time, level, service, logger, message and, where there are any, trace id, extra fields and traceback."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := trace_id():
            line["trace_id"] = trace
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= fields
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure(service: str, level: str) -> None:
    """Send everything that is logged to standard error, as JSON lines."""
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[output], force=True)
    for noisy in ("grpc", "asyncio", "uvicorn.access", "pymilvus", "hpack"):  # hpack would tell every header, keys too
        logging.getLogger(noisy).setLevel("WARNING")
