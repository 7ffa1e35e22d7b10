"""How the limits of the call at hand stand, for the door to tell its caller."""

from contextvars import ContextVar
from typing import Final, NamedTuple

from gateway.core.limit_ports import Grant, Measure, Quota, Refusal


class Quotas(NamedTuple):
    """The tightest limits on requests and on tokens per minute; None is not limited, or not known."""

    requests: Quota | None
    tokens: Quota | None


UNLIMITED: Final = Quotas(None, None)
_CURRENT: ContextVar[Quotas] = ContextVar("gateway_quotas", default=UNLIMITED)


def tell(answer: Grant | Refusal) -> None:
    """Say how they stand after an answer of the store; it is so to the end of the task's context, or until the next."""
    if isinstance(answer, Grant):
        _CURRENT.set(Quotas(answer.requests, answer.tokens))
    elif answer.measure is Measure.REQUESTS:
        _CURRENT.set(Quotas(answer.quota, None))
    elif answer.measure is Measure.TOKENS:
        _CURRENT.set(Quotas(None, answer.quota))


def told() -> Quotas:
    """Return what was told last for this call."""
    return _CURRENT.get()
