"""Errors on the wire: google.rpc.Status with ErrorInfo and RetryInfo, both ways."""

import logging
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from servicekit import status
from servicekit.errors import PenstockError, TimedOut, Unavailable
from servicekit.rpc.framing import DETAILS_KEY, CallFailed

DOMAIN: Final = "penstock"
LONGEST_MESSAGE: Final = 1000
SAID: Final = {
    Unavailable: "a service that is needed for this cannot be reached now",
    TimedOut: "the deadline passed before the answer came",
}
log = logging.getLogger(__name__)


class PeerFailed(Exception):
    """Another service failed by a bug of its own; it has logged it under the id in the message."""


def to_wire(error: PenstockError) -> CallFailed:
    """Return how a call fails that ends in this error."""
    code = status.GRPC[status.kind_of(error)]
    message = error.message[:LONGEST_MESSAGE]
    details = Status(code=code.value[0], message=message)
    reason = ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.field:
        reason.metadata["field"] = error.field[:LONGEST_MESSAGE]
    details.details.add().Pack(reason)
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        details.details.add().Pack(RetryInfo(retry_delay=delay))
    return CallFailed(code, message, details.SerializeToString())


def of_library(failure: Any) -> CallFailed:
    """Return how a call failed that gRPC's own library made; `failure` is its RpcError."""
    trailing: Any = failure.trailing_metadata() or ()
    raw = next((value for key, value in trailing if key == DETAILS_KEY), b"")
    return CallFailed(failure.code(), failure.details() or "", raw if isinstance(raw, bytes) else b"")


def from_wire(failure: CallFailed) -> Exception:
    """Return the error a failed call stands for: one of the eight kinds, or PeerFailed for a bug on the other side.

    What is said of a connection that was lost or never made has addresses in it: it is for the log.
    """
    kind = status.of_code(failure.code)
    if not failure.details and kind in SAID:
        log.info("a call failed: %s: %s", failure.code.name, failure.message)
        return kind(SAID[kind], retry_after_s=1 if kind is Unavailable else None)
    if kind is None:
        return PeerFailed(failure.message or failure.code.name)
    reason, field, retry_after_s = _details(failure.details)
    return kind(failure.message or failure.code.name, reason=reason, field=field, retry_after_s=retry_after_s)


def _details(raw: bytes) -> tuple[str, str, float | None]:
    reason, field, retry_after_s = "", "", None
    for detail in Status.FromString(raw).details:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            found = ErrorInfo()
            detail.Unpack(found)
            reason, field = found.reason, found.metadata.get("field", "")
        elif detail.Is(RetryInfo.DESCRIPTOR):
            retry = RetryInfo()
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return reason, field, retry_after_s
