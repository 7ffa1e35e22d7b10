"""What a benchmark says: figures, each as a ratio to its baseline and against its bar."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `bar` is the least it has to be, or the most with `at_most`."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    at_most: bool = False
    baseline: float | None = None

    @property
    def ratio(self) -> float | None:
        """The value in units of its baseline."""
        return None if not self.baseline else self.value / self.baseline

    @property
    def holds(self) -> bool:
        """Whether the bar is reached; a figure with a baseline is judged by its ratio."""
        judged = self.value if self.ratio is None else self.ratio
        return self.bar is None or (judged <= self.bar if self.at_most else judged >= self.bar)

    def line(self) -> str:
        """Return the figure as one line."""
        ratio = "" if self.ratio is None else f"{self.ratio:5.2f} x {self.baseline:.1f}"
        bar = "" if self.bar is None else f"{'<=' if self.at_most else '>='} {self.bar:g}"
        verdict = "" if self.bar is None else "PASS" if self.holds else "FAIL"
        return f"{self.name:44} {self.value:10.2f} {self.unit:8} {ratio:20} {bar:10} {verdict}"


def publish(folder: Path, topic: str, figures: Sequence[Figure]) -> bool:
    """Print figures, write them as JSON; return whether every bar holds."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(figure) | {"ratio": figure.ratio, "holds": figure.holds} for figure in figures]
    (folder / f"{topic}.json").write_text(json.dumps(rows, indent=2))
    for figure in figures:
        print(figure.line(), flush=True)
    return all(figure.holds for figure in figures)
