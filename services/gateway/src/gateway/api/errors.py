"""The OpenAI error envelope, which every failure under /v1 wears."""

import math
from typing import Any, Final

import orjson
from pydantic import ValidationError
from servicekit import errors, status

SHORTEST_RETRY_S: Final = 1
LONGEST_RETRY_S: Final = 120
LONGEST_PARAM: Final = 200
UNION_MEMBERS: Final = frozenset({"bool", "int", "float", "str"})

TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class TooLarge(errors.InvalidInput):
    """The body is larger than the gateway takes."""

    default_reason = "request_too_large"


class UnsupportedMediaType(errors.InvalidInput):
    """A body of a kind that is not taken."""

    default_reason = "unsupported_media_type"


class UnsupportedParameter(errors.InvalidInput):
    """A parameter of the OpenAI schema that would change the answer and that nothing here honours."""

    default_reason = "unsupported_parameter"


class NoRoute(errors.NotFound):
    """There is nothing at this path."""

    default_reason = "unknown_url"


class MethodNotAllowed(errors.InvalidInput):
    """There is something at this path, but not for this method."""

    default_reason = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


OWN_STATUS: Final[dict[type[errors.PenstockError], int]] = {
    TooLarge: 413,
    MethodNotAllowed: 405,
    UnsupportedMediaType: 415,
}


def http_status(error: Exception) -> int:
    """Return the HTTP status of a failure; 500 for what is not one of our errors."""
    if not isinstance(error, errors.PenstockError):
        return 500
    return OWN_STATUS.get(type(error)) or status.HTTP[status.kind_of(error)]


def envelope(error: Exception, request_id: str) -> dict[str, Any]:
    """Return the body for a failure; a bug says no more than the id it is logged under."""
    code = http_status(error)
    kind = TYPES.get(code, "invalid_request_error")
    if not isinstance(error, errors.PenstockError):
        message = f"internal error; it is logged under the id {request_id}"
        return {"error": {"message": message, "type": kind, "param": None, "code": "internal_error"}}
    param = error.field[:LONGEST_PARAM] or None
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.reason or None}}


def error_headers(error: Exception) -> list[tuple[bytes, bytes]]:
    """Return the headers that go with a failure: when to try again, how to say who one is."""
    code = http_status(error)
    headers = [(b"content-type", b"application/json")]
    if code in {429, 503}:
        headers.append((b"retry-after", str(retry_after(getattr(error, "retry_after_s", None))).encode()))
    if getattr(error, "retry", True) is False:  # the official clients try again by themselves unless told not to
        headers.append((b"x-should-retry", b"false"))
    if code == 401:
        headers.append((b"www-authenticate", b'Bearer realm="penstock"'))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    if code == 413:
        headers.append((b"connection", b"close"))
    return headers


def retry_after(asked_s: float | None) -> int:
    """Return the whole seconds after which to try again, 1 to 120, whatever was asked for."""
    if asked_s is None or math.isnan(asked_s):
        return SHORTEST_RETRY_S
    return math.ceil(min(max(asked_s, SHORTEST_RETRY_S), LONGEST_RETRY_S))


def error_body(error: Exception, request_id: str, *, oip: bool = False) -> bytes:
    """Return the envelope as JSON; OIP's has nothing but the message."""
    said = envelope(error, request_id)
    return orjson.dumps({"error": said["error"]["message"]} if oip else said)


def invalid(error: ValidationError) -> errors.InvalidInput:
    """Return what is wrong with a body, named by the path of the field: `messages[0].content`."""
    problem = max(error.errors(include_url=False, include_input=False, include_context=False), key=_depth)
    if problem["type"] == "json_invalid":
        return errors.InvalidInput(f"the body is not JSON: {problem['msg']}", reason="malformed_json")
    field = field_path(_without_types(problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return errors.InvalidInput(f"unknown field {field!r}", reason="unknown_parameter", field=field)
    if problem["type"] == "missing":
        return errors.InvalidInput(f"{field!r} is missing", reason="missing_parameter", field=field)
    return errors.InvalidInput(f"{field}: {message}" if field else message, field=field)


def field_path(parts: list[Any]) -> str:
    """Return a path such as `messages[0].content`."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _without_types(parts: tuple[Any, ...]) -> list[Any]:
    """Leave out what pydantic adds to a path: which member of a union it tried."""
    named = [part for part in parts if isinstance(part, int) or part.isidentifier()]
    return named[:-1] if named and named[-1] in UNION_MEMBERS else named


def _depth(problem: Any) -> int:
    return len(problem["loc"])
