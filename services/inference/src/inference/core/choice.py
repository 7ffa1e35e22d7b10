"""Chooses among replicas that may take a request: the less loaded of two, or the one that an affinity names."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Protocol, TypeVar

MOST_ABOVE_MEAN: Final = 1.25
"""How far above the mean the load of a replica may lie for an affinity to be kept (bounded loads)."""
LEAST_WEIGHT: Final = 0.1


class Candidate(Protocol):
    """What a choice has to know of a replica."""

    @property
    def address(self) -> str:
        """What tells it from the others."""
        ...

    @property
    def outstanding(self) -> int:
        """How many requests its server has not answered yet."""
        ...

    def weight(self) -> float:
        """Return how much of its share it should get, above 0 and at most 1: less while it is new."""
        ...


C = TypeVar("C", bound=Candidate)


def less_loaded_of_two(candidates: Sequence[C], random: Callable[[], float]) -> C:
    """Return the one with less outstanding work of two drawn at random; there have to be candidates.

    A newcomer that is drawn gives its place away as often as its weight is short of 1.
    """
    first = _drawn(candidates, random)
    second = _drawn(candidates, random)
    if second is first:
        second = candidates[(candidates.index(first) + 1) % len(candidates)]
        if second.weight() < 1.0:
            return first
    return first if first.outstanding <= second.outstanding else second


def kept_together(candidates: Sequence[C], key: str, random: Callable[[], float]) -> C:
    """Return the same replica for the same key while it lives and is not overloaded (rendezvous hashing)."""
    bound = MOST_ABOVE_MEAN * (sum(each.outstanding for each in candidates) + 1) / len(candidates)
    fitting = [each for each in candidates if each.outstanding + 1 <= max(1.0, bound)]
    if not fitting:
        return less_loaded_of_two(candidates, random)
    return max(fitting, key=lambda each: _score(key, each.address))


def slow_start(age_s: float, slow_start_s: float) -> float:
    """Return the weight of a replica that came into rotation `age_s` seconds ago."""
    return 1.0 if age_s >= slow_start_s else max(LEAST_WEIGHT, age_s / slow_start_s)


def _drawn(candidates: Sequence[C], random: Callable[[], float]) -> C:
    index = int(random() * len(candidates))
    weight = candidates[index].weight()
    if weight < 1.0 and random() >= weight:
        return candidates[(index + 1) % len(candidates)]
    return candidates[index]


def _score(key: str, address: str) -> bytes:
    return blake2b(f"{address}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
