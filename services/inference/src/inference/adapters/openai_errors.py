"""Turns what an upstream answers instead of an answer into our kinds of error."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson
from servicekit.errors import InvalidInput, PenstockError, Unavailable

from inference.adapters.openai_answer import failed

CALLERS_FAULT: Final = frozenset({400, 413, 422})
RATE_LIMITED: Final = "rate_limited"
SHORTEST_RETRY_AFTER_S: Final = 1.0
LONGEST_RETRY_AFTER_S: Final = 120.0
LONGEST_MESSAGE: Final = 500
LONGEST_PARAM: Final = 100
TOO_LONG: Final = re.compile(r"context (length|window|size)|prompt is too long|too many (input )?tokens", re.IGNORECASE)


class ContextLengthExceeded(InvalidInput):
    """Prompt and answer together are longer than the model can take."""

    default_reason = "context_length_exceeded"


def of_status(name: str, status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> PenstockError:
    """Return what a status other than 200 means for a caller of model `name`."""
    if status in CALLERS_FAULT:
        return _callers_fault(name, body)
    retry_after_s = read_retry_after_s(headers, now)
    if status == 429:
        return Unavailable(
            f"the upstream of {name} takes no more for now", reason=RATE_LIMITED, retry_after_s=retry_after_s
        )
    error = failed(name, f"answered with status {status}")
    error.retry_after_s = retry_after_s
    return error


def read_retry_after_s(headers: Mapping[str, str], now: datetime) -> float:
    """Return the seconds an upstream asks for, in milliseconds, seconds or as a date, kept within 1 and 120.

    The names of `headers` are in lower case.
    """
    asked_s = SHORTEST_RETRY_AFTER_S
    if value := headers.get("retry-after-ms"):
        asked_s = _number(value) / 1000
    elif value := headers.get("retry-after"):
        asked_s = _number(value) if value[:1].isdigit() else _seconds_until(value, now)
    return min(max(SHORTEST_RETRY_AFTER_S, asked_s), LONGEST_RETRY_AFTER_S)  # in this order NaN becomes 1


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return SHORTEST_RETRY_AFTER_S


def _seconds_until(value: str, now: datetime) -> float:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return SHORTEST_RETRY_AFTER_S
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()


def _callers_fault(name: str, body: bytes) -> InvalidInput:
    message, param, code = _read(body)
    if code == "context_length_exceeded" or TOO_LONG.search(message):
        return ContextLengthExceeded(f"{name} cannot take that much: {message}", field="messages")
    return InvalidInput(f"the upstream of {name} refused the request: {message}", field=param)


def _read(body: bytes) -> tuple[str, str, str]:
    """Return message, param and code of an error body, in any of the shapes that hosts use."""
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        return "no reason given", "", ""
    inner = document.get("error", document)
    if not isinstance(inner, dict):
        return _short(inner, LONGEST_MESSAGE) or "no reason given", "", ""
    message = _short(inner.get("message") or inner.get("detail"), LONGEST_MESSAGE)
    return message or "no reason given", _short(inner.get("param"), LONGEST_PARAM), _short(inner.get("code"), 100)


def _short(value: Any, longest: int) -> str:
    """Return a text that is fit to be shown on one line, or the empty one."""
    return " ".join(value.split())[:longest] if isinstance(value, str) else ""
