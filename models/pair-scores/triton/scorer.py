"""Scores passages by the tokens of a query, and remembers the tokens of texts that return."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Encode = Callable[[Tokens, Tokens], tuple[Floats, Floats]]
"""(input_ids, attention_mask) [n, L] -> unit vectors [n, L, H] and what each token counts [n, L], 0 for no word."""

NO_WORD = -2.0
"""The score of a passage without a word, below that of any other."""
LEVELS = 127


class BadPairs(ValueError):
    """A request's tokens cannot be scored; the message is for its caller."""


def check(ids: Tokens, mask: Tokens, vocabulary: int, positions: int) -> None:
    """Raise BadPairs when the tensors do not fit each other or the graph."""
    if ids.shape != mask.shape:
        raise BadPairs(f"input_ids has shape {list(ids.shape)} and attention_mask {list(mask.shape)}")
    if ids.shape[0] < 2:
        raise BadPairs("row 0 is the query, and at least one passage is needed")
    if not 1 <= ids.shape[1] <= positions:
        raise BadPairs(f"a text has {ids.shape[1]} tokens; 1 to {positions} are allowed")
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise BadPairs(f"a token is outside the vocabulary of {vocabulary}")


@dataclass(frozen=True)
class Text:
    """The words of a text: their unit vectors in eight bits, the size of a step, and what each counts in a query."""

    codes: npt.NDArray[np.int8]
    steps: Floats
    counts: Floats

    @classmethod
    def of(cls, directions: Floats, counted: Floats) -> "Text":
        """Return the words among the tokens [L, H] of a text."""
        words = directions[counted > 0]
        steps = (np.abs(words).max(axis=1, initial=1e-9) / LEVELS).astype(np.float32)
        return cls(np.rint(words / steps[:, None]).astype(np.int8), steps, counted[counted > 0])

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return self.codes.nbytes + self.steps.nbytes + self.counts.nbytes

    def directions(self) -> Floats:
        """Return the unit vectors [words, H]."""
        vectors: Floats = self.codes.astype(np.float32) * self.steps[:, None]
        return vectors


class Scorer:
    """Scores with an encoder; keeps the words of the texts used last, `most_bytes` of them together."""

    def __init__(self, encode: Encode, rows_per_run: int, most_bytes: int) -> None:
        self._encode = encode
        self._rows_per_run = rows_per_run
        self._most_bytes = most_bytes
        self._kept: OrderedDict[bytes, Text] = OrderedDict()
        self._bytes = 0

    def scores(self, ids: Tokens, mask: Tokens) -> Floats:
        """Return a score for each row after the first, which is the query: 0 for all when that has no word."""
        query, *passages = self._texts(ids, mask)
        weight = query.counts.sum()
        if not weight:
            return np.zeros(len(passages), np.float32)
        asked, shares = query.directions(), query.counts / weight
        return np.array([_covered(asked, shares, passage) for passage in passages], np.float32)

    def _texts(self, ids: Tokens, mask: Tokens) -> list[Text]:
        kept = mask != 0
        lengths = np.where(kept.any(axis=1), ids.shape[1] - np.argmax(kept[:, ::-1], axis=1), 1)
        keys = [
            row[:length].tobytes() + attended[:length].tobytes()
            for row, attended, length in zip(ids, kept, lengths, strict=True)
        ]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        unknown = {key: row for row, key in enumerate(keys) if key not in found}
        for rows in plan_runs(list(unknown.values()), lengths, self._rows_per_run):
            width = int(lengths[rows].max())
            directions, counted = self._encode(ids[rows, :width], kept[rows, :width].astype(np.int64))
            found |= {keys[row]: Text.of(*told) for row, *told in zip(rows, directions, counted, strict=True)}
        self._keep(found)
        return [found[key] for key in keys]

    def _keep(self, texts: dict[bytes, Text]) -> None:
        for key, text in texts.items():
            self._bytes += 0 if key in self._kept else text.size + len(key)
            self._kept[key] = text
            self._kept.move_to_end(key)
        while self._bytes > self._most_bytes:
            key, text = self._kept.popitem(last=False)
            self._bytes -= text.size + len(key)


def plan_runs(rows: Sequence[int], lengths: npt.NDArray[np.intp], rows_per_run: int) -> Iterator[list[int]]:
    """Yield every row once, those of similar length together, so that little padding is read."""
    ordered = sorted(rows, key=lambda row: (lengths[row], row))
    for start in range(0, len(ordered), rows_per_run):
        yield ordered[start : start + rows_per_run]


def _covered(asked: Floats, shares: Floats, passage: Text) -> float:
    """Return the weighted mean of each query word's cosine to the likest word of the passage."""
    if not len(passage.codes):
        return NO_WORD
    return float((asked @ passage.directions().T).max(axis=1) @ shares)
