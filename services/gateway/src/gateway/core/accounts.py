"""Who asks, as far as limits, rights and rank go: tenant, project and key, each with what it may take."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from servicekit.errors import Unauthenticated
from servicekit.load.priority import Priority as Priority  # noqa: PLC0414  a part of an account


@dataclass(frozen=True, slots=True)
class Limits:
    """What one subject may take; None is unlimited, 0 is none. Budgets are in nano-dollars per UTC day and month."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    budget_day_nanos: int | None = None
    budget_month_nanos: int | None = None


UNLIMITED: Final = Limits()


@dataclass(frozen=True, slots=True)
class Subject:
    """Whoever limits are kept for: `kind` is `tenant`, `project` or `key`; `id` is unique within the kind."""

    kind: str
    id: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Account:
    """Everything that is known of a caller; `subjects` go from tenant to key, and every one's limits hold.

    `allowlists` are patterns (`*` and `?`) of model names; a model has to match one of each list. An empty `region`
    pins to nowhere; any other is the only region this caller's requests may reach.
    """

    tenant: str
    project: str
    key_id: str
    principal: str
    scopes: frozenset[str]
    subjects: tuple[Subject, ...] = ()
    allowlists: tuple[tuple[str, ...], ...] = ()
    region: str = ""
    priority: Priority = Priority.STANDARD

    def allows(self, model: str) -> bool:
        """Say whether every allowlist has the model."""
        return all(any(fnmatchcase(model, pattern) for pattern in patterns) for patterns in self.allowlists)


_CURRENT: ContextVar[Account | None] = ContextVar("gateway_account", default=None)


def current() -> Account:
    """Return the account of the call being served; raise Unauthenticated outside of one."""
    account = _CURRENT.get()
    if account is None:
        raise Unauthenticated("no caller is known here")
    return account


def enter(account: Account) -> None:
    """Set the account of a call that just came in; for a server's interceptor, whose context ends with the call."""
    _CURRENT.set(account)


@contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """Make an account the current one inside the block."""
    token = _CURRENT.set(account)
    try:
        yield
    finally:
        _CURRENT.reset(token)
