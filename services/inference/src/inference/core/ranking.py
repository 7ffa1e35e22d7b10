"""Scores passages for a query with a model that ranks, and takes nothing from it that is no score."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from servicekit.errors import InvalidInput, Unavailable

from inference.core.ports import BACKEND_FAILED

MOST_PASSAGES: Final = 64

Infer = Callable[[str, bytes], Awaitable[bytes]]
"""Runs a ModelInferRequest on the model of that name; returns the ModelInferResponse."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One score per passage, in order, the higher the better; and the version of the model that gave them."""

    scores: Sequence[float]
    version: str


class PairCoding(Protocol):
    """Puts queries and passages into the tensors of a ranking model."""

    def request(self, model: str, query: str, passages: Sequence[str]) -> bytes:
        """Return a ModelInferRequest."""
        ...

    def read(self, response: bytes) -> Ranked:
        """Return what a ModelInferResponse says; raise ValueError when it holds no scores."""
        ...


class Ranker:
    """Ranks with the models of a pool."""

    def __init__(self, infer: Infer, coding: PairCoding) -> None:
        """Take what runs a model, and what its tensors look like."""
        self._infer = infer
        self._coding = coding

    async def rank(self, model: str, query: str, passages: Sequence[str]) -> Ranked:
        """Return a finite score for each passage. Errors are the pool's, and InvalidInput for what cannot be ranked."""
        if not query.strip():
            raise InvalidInput("the query is empty", field="query")
        if not 1 <= len(passages) <= MOST_PASSAGES:
            raise InvalidInput(
                f"{len(passages)} passages were sent; 1 to {MOST_PASSAGES} are allowed", field="passages"
            )
        response = await self._infer(model, self._coding.request(model, query, passages))
        try:
            ranked = self._coding.read(response)
        except ValueError as error:
            raise _failed(model, str(error)) from error
        if len(ranked.scores) != len(passages):
            raise _failed(model, f"{len(ranked.scores)} scores for {len(passages)} passages")
        if not all(map(math.isfinite, ranked.scores)):
            raise _failed(model, "a score is no number")
        return ranked


def _failed(model: str, why: str) -> Unavailable:
    return Unavailable(f"{model} did not rank: {why[:300]}", reason=BACKEND_FAILED, retry_after_s=1.0)
