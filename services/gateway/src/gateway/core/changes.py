"""What is changed by whom: writes that belong together, and the note that is kept of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from gateway.core.keys import ApiKey
from gateway.core.tenants import Project, Tenant

Entity = Tenant | Project | ApiKey
E_co = TypeVar("E_co", bound=Entity, covariant=True)
DEFAULT_PAGE: Final = 100
LARGEST_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Write(Generic[E_co]):
    """An entity as it shall be. `over` is the version it replaces; 0 adds it."""

    entity: E_co
    over: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A note of the journal: who did what to which entity, and how it looked before and after, without secrets.

    `id` is given by the journal; notes that are not kept yet have 0.
    """

    at: datetime
    actor: str
    actor_tenant: str
    action: str
    tenant: str
    target: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    id: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: at most `size` entries after the one named `after`; the empty name is the beginning."""

    size: int = DEFAULT_PAGE
    after: str = ""
