"""Packs the texts of many requests into few runs with little padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]
RUN_TOKENS = 6
"""What one more run of the graph costs, in tokens encoded (0.5 ms, measured): more padding than this is dearer."""


class BadInput(ValueError):
    """A request's tokens cannot be encoded; the message is for its caller."""


@dataclass(frozen=True)
class Texts:
    """The tokens of one request, [N, L], and the length of each text without its padding."""

    ids: Tokens
    mask: Tokens
    lengths: npt.NDArray[np.intp]

    @classmethod
    def check(cls, ids: Tokens, mask: Tokens, vocabulary: int, positions: int) -> "Texts":
        """Return the texts; raise BadInput when the tensors do not fit each other or the model."""
        if ids.shape != mask.shape:
            raise BadInput(f"input_ids has shape {list(ids.shape)} and attention_mask {list(mask.shape)}")
        if not 1 <= ids.shape[1] <= positions:
            raise BadInput(f"a text has {ids.shape[1]} tokens; 1 to {positions} are allowed")
        if ids.min() < 0 or ids.max() >= vocabulary:
            raise BadInput(f"a token is outside the vocabulary of {vocabulary}")
        kept = mask != 0
        last = ids.shape[1] - np.argmax(kept[:, ::-1], axis=1)
        return cls(ids, kept.astype(np.int64), np.where(kept.any(axis=1), last, 1))


@dataclass(frozen=True)
class Run:
    """One call of the model: padded tokens, and for each row the request and the row it came from."""

    ids: Tokens
    mask: Tokens
    origin: list[tuple[int, int]]


def plan_runs(requests: Sequence[Texts], tokens_per_run: int) -> Iterator[Run]:
    """Yield runs that hold every text once, the shortest first; one of several texts keeps to `tokens_per_run`."""
    texts = sorted(
        (int(length), request, row)
        for request, texts in enumerate(requests)
        for row, length in enumerate(texts.lengths)
    )
    start = 0
    for end in range(1, len(texts) + 1):
        if end == len(texts) or _apart(texts[end - 1][0], texts[end][0], end - start, tokens_per_run):
            yield _pack(requests, texts[start:end])
            start = end


def _apart(width: int, longer: int, rows: int, tokens_per_run: int) -> bool:
    """Say whether a longer text is better off in a run of its own than in one of `rows` texts of `width` tokens."""
    return (longer - width) * rows > RUN_TOKENS or longer * (rows + 1) > tokens_per_run


def _pack(requests: Sequence[Texts], texts: Sequence[tuple[int, int, int]]) -> Run:
    width = texts[-1][0]
    ids = np.zeros((len(texts), width), np.int64)
    mask = np.zeros_like(ids)
    for target, (length, request, row) in enumerate(texts):
        ids[target, :length] = requests[request].ids[row, :length]
        mask[target, :length] = requests[request].mask[row, :length]
    return Run(ids, mask, [(request, row) for _, request, row in texts])
