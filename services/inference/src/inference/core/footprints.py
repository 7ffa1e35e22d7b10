"""How much memory each model takes and how long it takes to load: measured, smoothed, kept."""

from collections.abc import Mapping
from typing import Final

from inference.core.residency_ports import Footprint, FootprintStore

SHRINK: Final = 0.2
"""How fast a footprint follows a smaller measurement; a larger one counts at once, since memory has to be enough."""


class Footprints:
    """The learned footprints of the models of one group; a model that was never measured is assumed to take a share."""

    def __init__(self, store: FootprintStore, assumed_bytes: int) -> None:
        """Take where to keep them, and how many bytes a model is thought to take before it was measured."""
        self._store = store
        self._assumed_bytes = assumed_bytes
        self._known: dict[str, Footprint] = {}
        self._changed = False

    async def open(self) -> None:
        """Read what was kept."""
        self._known = await self._store.read()

    async def keep(self) -> None:
        """Write what has changed."""
        if self._changed:
            self._changed = False
            await self._store.write(dict(self._known))

    def bytes_of(self, model: str) -> int:
        """Return what a model takes, in bytes."""
        known = self._known.get(model)
        return known.bytes_ if known and known.bytes_ else self._assumed_bytes

    def load_s(self, model: str) -> float:
        """Return how long a load takes, in seconds; 0.0 when it is not known."""
        known = self._known.get(model)
        return known.load_s if known else 0.0

    def learn_load(self, model: str, took_s: float) -> None:
        """Take in how long a load took."""
        known = self._known.get(model)
        smoothed_s = (known.load_s + took_s) / 2 if known and known.load_s else took_s
        self._put(model, Footprint(known.bytes_ if known else 0, smoothed_s))

    def learn_bytes(self, model: str, measured: int) -> int:
        """Take in what was measured and return what the model is charged from now on; 0 and less is no measurement."""
        known = self._known.get(model)
        before = known.bytes_ if known else 0
        if measured > 0:
            shrunk = before - int(SHRINK * (before - measured))
            self._put(model, Footprint(max(measured, shrunk) if before else measured, known.load_s if known else 0.0))
        return self.bytes_of(model)

    def known(self) -> Mapping[str, Footprint]:
        """Return what was learned."""
        return self._known

    def _put(self, model: str, footprint: Footprint) -> None:
        if self._known.get(model) != footprint:
            self._known[model] = footprint
            self._changed = True
