"""The eight kinds of failure a caller can be told about; statuses are in status.py."""

from typing import ClassVar


class PenstockError(Exception):
    """What a caller is told when a request fails. Raise one of its kinds, or a subclass of a kind.

    `reason` is stable and machine-readable, `field` is the path of the input at fault, `retry_after_s` says when a
    retry can help (seconds).
    """

    default_reason: ClassVar[str] = ""

    def __init__(self, message: str, *, reason: str = "", field: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidInput(PenstockError):
    """The request is wrong in itself; the same request will fail again."""

    default_reason = "invalid_input"


class Unauthenticated(PenstockError):
    """Who asks is not known."""

    default_reason = "unauthenticated"


class Forbidden(PenstockError):
    """Who asks is known and may not."""

    default_reason = "forbidden"


class NotFound(PenstockError):
    """What is named does not exist, or not for this caller."""

    default_reason = "not_found"


class Conflict(PenstockError):
    """The request does not fit what is already there."""

    default_reason = "conflict"


class QuotaExceeded(PenstockError):
    """The caller has used up what is his."""

    default_reason = "quota_exceeded"


class Unavailable(PenstockError):
    """Not now; the same request may go well later."""

    default_reason = "unavailable"


class TimedOut(PenstockError):
    """The deadline passed before there was an answer."""

    default_reason = "timed_out"
