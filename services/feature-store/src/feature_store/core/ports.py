"""What the feature store needs from outside."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from feature_store.core.catalogue import Catalogue, Scalar

EntityKey = tuple[Scalar, ...]
"""The key values of one entity, in the order of their sorted names."""

Clock = Callable[[], int]
"""Microseconds since 1970, UTC."""

CurrentCatalogue = Callable[[], Catalogue]
"""The catalogue in force now; it may be a newer one at the next call."""


StoredValue = tuple[Scalar | None, int]
"""A value as it was pushed (None = null) and when it became true (microseconds since 1970)."""


@dataclass(frozen=True, slots=True)
class ViewQuery:
    """Asks features of one view for some entities."""

    view: str
    features: tuple[str, ...]
    keys: Sequence[EntityKey]


class StoredRow(NamedTuple):
    """News about one entity (None = null), true since `event_us` (microseconds since 1970)."""

    key: EntityKey
    values: Mapping[str, Scalar | None]
    event_us: int


class OnlineValues(Protocol):
    """The newest value of every feature. Booleans may come back as 0 and 1."""

    async def read(self, tenant: str, queries: Sequence[ViewQuery]) -> list[Sequence[Mapping[str, StoredValue]]]:
        """Return, for each query and each of its keys, what is stored under the features' names.

        Raises Unavailable.
        """
        ...

    async def write(self, tenant: str, view: str, rows: Sequence[StoredRow]) -> list[bool]:
        """Keep rows in order, all durable on return; for each row say if any of its values was kept.

        A value is kept unless one with a later event time is there; of equal times the later write wins.
        Raises Unavailable, with reason `storage_full` when there is no room; then nothing was kept.
        """
        ...
