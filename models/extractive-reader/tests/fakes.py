"""Stand-ins for the encoder model and the vocabulary, and a way to write prompts."""

import html
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from features import Vectors
from reader import Reader, Weights
from words import STOP_WORDS, Rarity, words_of

WEIGHTS = Path(__file__).resolve().parents[1] / "triton" / "weights.json"
COMMON = Rarity(
    {word: rank for rank, word in enumerate(["city", "people", "team", "year", "made", "first", "place", "water"])}
)
FENCE = re.compile(r"<(?=/?(?:passage|question))", re.IGNORECASE)


class FakeEncoder:
    """A bag of hashed content stems: texts that share words point the same way; `asked` keeps what was encoded."""

    def __init__(self) -> None:
        """Nothing has been asked yet."""
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors of 256 dimensions."""
        self.asked.extend(texts)
        vectors = np.full((len(texts), 256), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in words_of(text):
                if word.folded not in STOP_WORDS:
                    vectors[row, zlib.crc32(word.stem.encode()) % 256] += 1
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def make_reader() -> Reader:
    """Return a reader with the shipped weights and a fake encoder."""
    return Reader(FakeEncoder(), COMMON, Weights.load(WEIGHTS))


def prompt_of(question: str, *passages: tuple[str, str], instructions: str = "Answer from the passages.") -> str:
    """Return the prompt that the orchestrator writes for (title, text) passages."""
    fenced = "\n".join(
        f'<passage n="{number}" title="{html.escape(title)}">\n{FENCE.sub("&lt;", text)}\n</passage>'
        for number, (title, text) in enumerate(passages, 1)
    )
    return (
        f"{instructions}\n<passages>\n{fenced}\n</passages>\n<question>\n{FENCE.sub('&lt;', question)}\n</question>\n"
    )
