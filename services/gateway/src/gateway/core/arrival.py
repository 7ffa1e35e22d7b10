"""How a call came in: through which door, and whether it is another try of an earlier one."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Arrival:
    """`door` is `rest`, `grpc` or `oip`; `fingerprint` is that of `retries.fingerprint`, empty where none was taken."""

    door: str
    retry_count: int = 0
    fingerprint: str = ""


GRPC: Final = Arrival("grpc")
_CURRENT: ContextVar[Arrival] = ContextVar("gateway_arrival", default=GRPC)


def current() -> Arrival:
    """Return how the call being served came in; one that nobody announced came through the gRPC door."""
    return _CURRENT.get()


def enter(arrival: Arrival) -> None:
    """Say how the request that is now being served came in; it is so to the end of the task's context."""
    _CURRENT.set(arrival)
