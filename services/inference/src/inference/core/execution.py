"""What servers say they have done with a model: how much of it, and in batches of which size."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Execution:
    """Counters since a server began: rows, executions (by how many rows each had), and what its response cache did."""

    inferences: int = 0
    executions: int = 0
    batches: Mapping[int, int] = field(default_factory=dict)
    cache_hits: int = 0
    cache_misses: int = 0

    @classmethod
    def sum(cls, parts: Iterable["Execution"]) -> "Execution":
        """Return what several servers have done together."""
        each = list(parts)
        batches: Counter[int] = Counter()
        for part in each:
            batches.update(part.batches)
        return cls(
            sum(part.inferences for part in each),
            sum(part.executions for part in each),
            batches,
            sum(part.cache_hits for part in each),
            sum(part.cache_misses for part in each),
        )


class ExecutionReader(Protocol):
    """Asks one server about one model."""

    async def read(self, timeout_s: float) -> Execution | None:
        """Return the counters, or None where the server does not tell them now."""
        ...
