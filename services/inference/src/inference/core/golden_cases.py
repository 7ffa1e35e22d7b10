"""What a model has to answer to be trusted: golden inputs, the outputs expected, and how far off they may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.core.conversation import Turn

Array = npt.NDArray[Any]
SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """One output: each element within `atol + rtol * |expected|`, and each row's cosine to the expected one's at least
    `min_cosine`, where that is above -1. Bytes are compared exactly.
    """

    values: Array
    atol: float = 0.0
    rtol: float = 0.0
    min_cosine: float = -1.0

    def difference(self, answered: Array) -> str:
        """Return how an output differs from what was expected; nothing when it is right."""
        if answered.shape != self.values.shape:
            return f"its shape is {list(answered.shape)} and not {list(self.values.shape)}"
        if answered.dtype.kind in "OSU":
            return "" if np.array_equal(answered, self.values) else "its bytes are others"
        if not np.isfinite(answered).all():
            return "it holds what is no number"
        return self._distance(answered.astype(np.float64), self.values.astype(np.float64))

    def _distance(self, answered: Array, expected: Array) -> str:
        excess = np.abs(answered - expected) - (self.atol + self.rtol * np.abs(expected))
        if excess.size and excess.max() > 0:
            worst = float(np.abs(answered - expected).max())
            return f"an element is off by {worst:.4g}"
        if self.min_cosine > -1.0:
            lengths = np.linalg.norm(answered, axis=-1) * np.linalg.norm(expected, axis=-1)
            cosine = (answered * expected).sum(axis=-1) / np.where(lengths > 0, lengths, 1.0)
            if float(cosine.min()) < self.min_cosine:
                return f"its cosine to what is expected is {float(cosine.min()):.4f}, below {self.min_cosine}"
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class TensorCase:
    """Inputs by name, and what the outputs have to be."""

    name: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Expected]

    def difference(self, answered: Mapping[str, Array]) -> str:
        """Return the first way in which the outputs are wrong; nothing when they are right."""
        for name, expected in self.outputs.items():
            if name not in answered:
                return f"{self.name}: there is no output {name}"
            different = expected.difference(answered[name])
            if different:
                return f"{self.name}: {name}: {different}"
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class TextCase:
    """A conversation, and the answer expected of it: all of it, or texts that it has to contain."""

    name: str
    turns: Sequence[Turn]
    max_tokens: int
    whole: str | None = None
    contains: Sequence[str] = ()

    def difference(self, answered: str) -> str:
        """Return how the answer is wrong; nothing when it is right. What the model wrote is not repeated."""
        if self.whole is not None and answered != self.whole:
            return f"{self.name}: the answer is another one"
        for text in self.contains:
            if text not in answered:
                return f"{self.name}: the answer lacks {text[:SHOWN_CHARACTERS]!r}"
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """All cases of a model; every one has to pass."""

    cases: Sequence[TensorCase | TextCase]
