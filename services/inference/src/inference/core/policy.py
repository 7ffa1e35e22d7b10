"""What an operator decides about the models in the memory of a group of servers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a load and an unload may take, and how long memory may take to come free after one, in seconds."""

    load_s: float = 120.0
    unload_s: float = 30.0
    free_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Policy:
    """What a group of servers may hold; every server has the same budget, in bytes.

    `pinned` models stay on each server, `warm` ones are loaded on each at its start, and none goes before it was there
    for `minimum_s` seconds. A model with more than `spread_at` leases on a server gets one more server, if that costs
    no other model its place. A server that keeps more than `leak_limit_bytes` after unloads is to be restarted.
    """

    models: frozenset[str]
    budget_bytes: int
    leak_limit_bytes: int
    warm: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    minimum_s: float = 5.0
    spread_at: int = 4
    patience: Patience = Patience()
