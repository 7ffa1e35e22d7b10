"""What the versions of models need from the outside: where they are kept, and the registries they are imported from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from inference.core.versions import Evaluation, Registered, Roles, Version


class Outdated(Exception):
    """The store has changed since it was read; what was decided on that reading was not done."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A new verdict on a variant."""

    model: str
    version: str
    variant: str
    before: Evaluation | None
    after: Evaluation


@dataclass(frozen=True, slots=True)
class Assignment:
    """New roles of a model: who gave them and when."""

    model: str
    before: Roles
    after: Roles
    at: datetime
    by: str


Write = Version | Judgement | Assignment


@dataclass(frozen=True, slots=True)
class Change:
    """What was done once: who, when, and how it was and became, as JSON texts; `action` is what kind of write."""

    id: int
    model: str
    at: datetime
    by: str
    action: str
    before: str
    after: str


class VersionStore(Protocol):
    """Keeps versions, verdicts, roles and the journal of their changes, for all processes of the pool.

    Every method raises Unavailable when the store cannot be reached.
    """

    async def generation(self) -> int:
        """Return a number that grows with every write, in the order in which writes can be seen."""
        ...

    async def load(self) -> Mapping[str, Registered]:
        """Return everything, by model."""
        ...

    async def commit(self, generation: int, write: Write) -> None:
        """Do a write and journal it, as one; raise Outdated, and change nothing, when `generation` has grown."""
        ...

    async def changes(self, model: str, before_id: int, size: int) -> Sequence[Change]:
        """Return changes with an id below `before_id` (0: all), newest first; of every model when none is named."""
        ...


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What comparing a champion with a shadow has shown so far; durations are means in milliseconds.

    `details` are what the latest answers differed in that cannot be subtracted.
    """

    requests: int
    same: int
    failed: int
    max_abs_diff: float | None
    champion_ms: float
    shadow_ms: float
    details: Sequence[str]


@dataclass(frozen=True, slots=True)
class Imported:
    """A version as another registry knows it; `digest` is empty where it tells none."""

    name: str
    digest: str
    source: str


class ModelRegistry(Protocol):
    """Another registry of models, such as MLflow."""

    async def resolve(self, uri: str) -> Imported:
        """Return the version a URI stands for now.

        Raises InvalidInput (no such form), NotFound (no such model, version or alias) or Unavailable.
        """
        ...
