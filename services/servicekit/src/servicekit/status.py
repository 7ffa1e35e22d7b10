"""The one table of error kinds and their statuses, read both ways."""

import grpc

from servicekit import errors

GRPC: dict[type[errors.PenstockError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
}

HTTP: dict[type[errors.PenstockError], int] = {
    errors.InvalidInput: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.QuotaExceeded: 429,
    errors.Unavailable: 503,
    errors.TimedOut: 504,
}

_KIND_OF_CODE = {code: kind for kind, code in GRPC.items()}


def kind_of(error: errors.PenstockError) -> type[errors.PenstockError]:
    """Return which of the eight kinds an error is, however far down its subclass."""
    return next(kind for kind in type(error).__mro__ if kind in GRPC)


def of_code(code: grpc.StatusCode) -> type[errors.PenstockError] | None:
    """Return the kind a gRPC status stands for, or None when it stands for a bug or a cancelled call."""
    return _KIND_OF_CODE.get(code)
