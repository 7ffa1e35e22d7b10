"""A pipeline as it is declared: which steps in which order, with which share of the deadline, and its ladder."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from servicekit.errors import TimedOut

from orchestrator.core.answer import Rung


class StepName(Enum):
    """The kinds of step there are."""

    EMBED = "embed"
    SEARCH = "search"
    RERANK = "rerank"
    PROMPT = "prompt"
    GENERATE = "generate"
    GROUND = "ground"


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step and the share, above 0 to 1, of the time that is left when it begins."""

    name: StepName
    share: float


OPTIONAL: Final = frozenset({StepName.EMBED, StepName.RERANK})


@dataclass(frozen=True, slots=True)
class Rerank:
    """Which model of the catalogue ranks the passages again, and how many of them it is given."""

    model: str
    candidates: int


@dataclass(frozen=True, slots=True)
class RungSpec:
    """A rung of the ladder; `model` is the catalogue name for the reader's rung, else empty."""

    rung: Rung
    model: str = ""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A declared pipeline; `token_budget` is the most tokens of the whole prompt, no `rerank` leaves that step out."""

    name: str
    model: str
    top_k: int
    token_budget: int
    steps: tuple[StepSpec, ...]
    ladder: tuple[RungSpec, ...]
    rerank: Rerank | None = None

    def __post_init__(self) -> None:
        """Raise ValueError when a step stands before what it needs, or the ladder is out of order."""
        names = [step.name for step in self.steps]
        order = [name for name in StepName if name in names]
        if names != order:
            raise ValueError(f"steps: has to be in the order {[name.value for name in order]}, each once")
        missing = [name.value for name in StepName if name not in names and name not in OPTIONAL]
        if missing:
            raise ValueError(f"steps: {', '.join(missing)} missing; only embed and rerank can be left out")
        if (StepName.RERANK in names) != (self.rerank is not None):
            raise ValueError("steps: the step rerank and the ranking model go together")
        rungs = [rung.rung for rung in self.ladder]
        if rungs != [rung for rung in Rung if rung in rungs] or Rung.CHOSEN_MODEL not in rungs:
            raise ValueError(f"ladder: has to begin with chosen_model, in the order {[rung.value for rung in Rung]}")

    def share_of(self, name: StepName) -> float:
        """Return the declared share of a step."""
        return next(step.share for step in self.steps if step.name is name)


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """The deadline of one answer: a moment, in seconds of `clock`."""

    ends_at: float
    clock: Callable[[], float]

    def share(self, fraction: float) -> float:
        """Return that fraction of the seconds left; TimedOut when none are."""
        left_s = self.ends_at - self.clock()
        if left_s <= 0:
            raise TimedOut("the deadline passed before there was an answer")
        return left_s * fraction
