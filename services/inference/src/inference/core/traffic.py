"""Which version of a model answers a request: sticky by caller, exact in its shares, never one that cannot serve."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Final

SLOTS: Final = 10_000
"""Parts of the traffic: a hundredth of a percent each."""
NOBODY: Final = 0

Ranges = tuple[tuple[int, int], ...]
"""Slots, as half-open ranges in ascending order."""


class SplitBy(Enum):
    """What stays with one version: an API key, a tenant, or nothing but the single request."""

    KEY = "key"
    TENANT = "tenant"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as the choice of a version goes."""

    tenant: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant that may run: the version it is of, the catalogue's entry that runs it, and what that has to be."""

    version: str
    variant: str
    served_by: str
    digest: str


Servable = Callable[[Candidate], bool]


@dataclass(frozen=True, slots=True)
class Route:
    """How the traffic of one model is divided; candidates are in the order they are tried, the cheapest first.

    When `champion` is None the catalogue's own entry is the champion. `table` has for each slot the number of a canary,
    counted from 1, or 0; it is empty when there is no canary.
    """

    model: str
    champion: tuple[Candidate, ...] | None = None
    canaries: tuple[tuple[Candidate, ...], ...] = ()
    table: bytes = b""
    shadow: tuple[Candidate, ...] = ()
    shadow_share: int = 0
    split_by: SplitBy = SplitBy.KEY

    @property
    def divides(self) -> bool:
        """Whether anything but the catalogue's own entry is ever asked."""
        return self.champion is not None or bool(self.table) or bool(self.shadow)

    def canary(self, caller: Caller, servable: Servable, random: Callable[[], float]) -> Candidate | None:
        """Return the canary that answers this caller, or None when the champion does.

        A caller whose canary cannot serve is the champion's until it can.
        """
        if not self.table:
            return None
        number = self.table[self._slot(caller, random)]
        if number == NOBODY:
            return None
        return next(filter(servable, self.canaries[number - 1]), None)

    def _slot(self, caller: Caller, random: Callable[[], float]) -> int:
        if self.split_by is SplitBy.REQUEST:
            return int(random() * SLOTS)
        key = caller.tenant if self.split_by is SplitBy.TENANT else f"{caller.tenant}/{caller.key}"
        return slot_of(self.model, key)


@dataclass(slots=True)
class Traffic:
    """The routes in force, by model; a model without one is the catalogue's entry alone. Replaced as a whole."""

    routes: Mapping[str, Route] = field(default_factory=dict)


def slot_of(model: str, key: str) -> int:
    """Return the slot of a key, which is another one for each model, so that nobody is the first to try everything."""
    return int.from_bytes(blake2b(f"{model}\0{key}".encode(), digest_size=8).digest(), "big") % SLOTS


def allocate(before: Mapping[str, Ranges], weights: Mapping[str, int]) -> dict[str, Ranges]:
    """Return which slots each canary has, when `before` says which it had; the weights are at most SLOTS together.

    As few slots as possible change hands: a canary that grows keeps all it has, one that does not change keeps exactly
    what it has, and one that shrinks gives up its highest.
    """
    owned = {name: _listed(before.get(name, ()))[:weight] for name, weight in weights.items()}
    taken = {slot for slots in owned.values() for slot in slots}
    free = (slot for slot in range(SLOTS) if slot not in taken)
    return {
        name: _ranges([*slots, *(next(free) for _ in range(weights[name] - len(slots)))])
        for name, slots in owned.items()
    }


def table_of(slots: Mapping[str, Ranges], order: Mapping[str, int]) -> bytes:
    """Return for each slot the number of its canary, or NOBODY; empty when no canary has a slot."""
    table = bytearray(SLOTS)
    for name, ranges in slots.items():
        for start, end in ranges:
            table[start:end] = bytes([order[name]]) * (end - start)
    return bytes(table) if any(table) else b""


def _listed(ranges: Ranges) -> list[int]:
    return [slot for start, end in ranges for slot in range(start, end)]


def _ranges(slots: list[int]) -> Ranges:
    """Return the ranges that hold these slots."""
    ranges: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if ranges and ranges[-1][1] == slot:
            ranges[-1] = (ranges[-1][0], slot + 1)
        else:
            ranges.append((slot, slot + 1))
    return tuple(ranges)
