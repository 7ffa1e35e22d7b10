"""What the catalogue says of the models that a group of servers loads on request."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from inference.core.policy import Patience, Policy

MIB: Final = 1 << 20
PIB: Final = 1 << 50
ASSUMED_SHARE: Final = 8
"""A model that was never measured is assumed to take an eighth of the budget."""
LEAK_SHARE: Final = 4
"""A server that keeps more than a quarter of its budget after unloads is to be restarted."""


class ResidencyEntry(BaseModel):
    """How much memory each server of the group gives to models, and which of them matter most.

    Models are named as the servers name them; paths count from the catalogue's folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    managed: bool = Field(True, description="false: the servers keep what they loaded at their start")
    budget_bytes: int = Field(ge=MIB, le=PIB, description="for the models of one server")
    pinned: list[str] = Field([], max_length=1000, description="loaded on every server, and never unloaded")
    warm: list[str] = Field([], max_length=1000, description="loaded on every server at its start, as far as they fit")
    minimum_s: float = Field(5.0, ge=0, le=3600, description="for which a model stays at least")
    spread_at: int = Field(4, ge=1, le=10_000, description="requests at once that ask for one more server")
    load_timeout_s: float = Field(120.0, gt=0, le=3600)
    unload_timeout_s: float = Field(30.0, gt=0, le=3600)
    free_timeout_s: float = Field(10.0, gt=0, le=600, description="for memory to come free after an unload")
    assumed_bytes: int | None = Field(None, ge=1, le=PIB, description="of a model that was never measured")
    leak_limit_bytes: int | None = Field(None, ge=1, le=PIB, description="left behind by unloads: restart the server")
    repository: Path | None = Field(None, description="the servers' model repository, to check files before a load")
    footprints: Path | None = Field(None, description="file for what was measured, so that it outlasts a restart")
    metrics_port: int | None = Field(None, ge=1, le=65_535, description="of the servers' metrics: measure GPU memory")

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [*self.pinned, *self.warm]
        if len(set(names)) != len(names):
            raise PydanticCustomError("twice", "a model stands twice in pinned and warm")
        return self

    def policy(self, models: Iterable[str]) -> Policy:
        """Return what the core knows of it, for the models of the group."""
        return Policy(
            models=frozenset(models),
            budget_bytes=self.budget_bytes,
            leak_limit_bytes=self.leak_limit_bytes or self.budget_bytes // LEAK_SHARE,
            warm=tuple(self.warm),
            pinned=tuple(self.pinned),
            minimum_s=self.minimum_s,
            spread_at=self.spread_at,
            patience=Patience(self.load_timeout_s, self.unload_timeout_s, self.free_timeout_s),
        )

    def assumed(self) -> int:
        """Return what a model is thought to take before it was measured, in bytes."""
        return self.assumed_bytes or self.budget_bytes // ASSUMED_SHARE
