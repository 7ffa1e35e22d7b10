"""What upstreams say instead of an answer, and when they want to be asked again."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from inference.adapters.openai_errors import of_status, read_retry_after_s
from servicekit.errors import InvalidInput, Unavailable

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
RETRY_AFTER = [
    ({}, 1.0),
    ({"retry-after": "7"}, 7.0),
    ({"retry-after": "0"}, 1.0),
    ({"retry-after": "1e9"}, 120.0),
    ({"retry-after": "-5"}, 1.0),
    ({"retry-after": "nan"}, 1.0),
    ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT"}, 30.0),
    ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT"}, 1.0),
    ({"retry-after": "Sat, 21 Nov 2036 12:00:00 GMT"}, 120.0),
    ({"retry-after": "Sat, 21 Nov 2026 12:00:30"}, 30.0),
    ({"retry-after": "Sat, 99 Nov 2026 12:00:30 GMT"}, 1.0),
    ({"retry-after": "soon"}, 1.0),
    ({"retry-after": "7 s"}, 1.0),
    ({"retry-after-ms": "2500", "retry-after": "9"}, 2.5),
    ({"retry-after-ms": "x", "retry-after": "9"}, 1.0),
]


@pytest.mark.parametrize(("headers", "expected_s"), RETRY_AFTER)
def test_retry_after_is_understood_and_kept_within_bounds(headers: dict[str, str], expected_s: float) -> None:
    assert read_retry_after_s(headers, NOW) == expected_s


def told(body: Any, status: int = 400) -> InvalidInput:
    error = of_status("m", status, {}, body if isinstance(body, bytes) else orjson.dumps(body), NOW)
    assert isinstance(error, InvalidInput)
    return error


def test_the_callers_fault_is_told_with_its_field() -> None:
    error = told({"error": {"message": "n is\n too  large", "param": "n", "code": None}})
    assert (error.message, error.field, error.reason) == (
        "the upstream of m refused the request: n is too large",
        "n",
        "invalid_input",
    )


BODIES = [
    {"error": "wrong"},
    {"message": "wrong", "object": "error"},
    {"detail": "wrong"},
    {"error": {"message": "wrong", "param": ["a"], "code": 400}},
]


@pytest.mark.parametrize("body", BODIES)
def test_other_shapes_of_errors_are_read_too(body: Any) -> None:
    assert told(body).message.endswith("wrong")
    assert told(body).field == ""


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"error": null}', b'{"error": {}}', b'{"error": 7}']
)
def test_a_body_that_says_nothing_is_no_reason(body: bytes) -> None:
    assert told(body, 422).message.endswith("no reason given")


def test_a_message_is_bounded() -> None:
    error = told({"error": {"message": "x" * 10_000, "param": "y" * 10_000}})
    assert len(error.message) < 600
    assert len(error.field) == 100


TOO_LONG = [
    {"error": {"message": "no", "code": "context_length_exceeded"}},
    {"error": {"message": "This model's maximum context length is 8 tokens"}},
    {"error": {"message": "Prompt is too long: 300000 tokens"}},
    {"message": "the request exceeds the available context size"},
]


@pytest.mark.parametrize("body", TOO_LONG)
def test_too_long_a_context_has_its_own_reason(body: Any) -> None:
    assert (told(body).reason, told(body).field) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 418, 500, 503, 529])
def test_all_else_is_a_failed_backend_that_tells_nothing(status: int) -> None:
    error = of_status("m", status, {"retry-after": "7"}, b'{"error": {"message": "secret"}}', NOW)
    assert isinstance(error, Unavailable)
    assert (error.reason, error.retry_after_s) == ("backend_failed", 7.0)
    assert "secret" not in error.message
