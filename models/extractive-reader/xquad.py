"""Reads a SQuAD-format file and retrieves its paragraphs as Penstock's hybrid search would: exact dense, BM25, RRF."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from features import Vectors
from words import STOP_WORDS, WORD

K1, B = 1.5, 0.75  # BM25
RRF_K = 60
DEPTH = 50  # ranks of each list that count


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph, its article's title and the article's number."""

    text: str
    title: str
    article: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer as a span of text, and the number of the paragraph that holds it."""

    text: str
    gold: str
    paragraph: int
    article: int


def read(path: Path) -> tuple[list[Paragraph], list[Question]]:
    """Return the paragraphs and questions of a SQuAD 1.1 file in their order."""
    paragraphs: list[Paragraph] = []
    questions: list[Question] = []
    for number, article in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
        for entry in article["paragraphs"]:
            paragraphs.append(Paragraph(entry["context"], article["title"].replace("_", " "), number))
            questions.extend(
                Question(item["question"], item["answers"][0]["text"], len(paragraphs) - 1, number)
                for item in entry["qas"]
            )
    return paragraphs, questions


class HybridSearch:
    """Ranks texts for a query by reciprocal rank fusion of cosine and BM25, both computed exactly."""

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        """`vectors` [texts, dimensions] are unit vectors."""
        counts = [Counter(_terms(text)) for text in texts]
        lengths = np.array([sum(count.values()) for count in counts])
        self._vectors = vectors
        self._postings: dict[str, Vectors] = {}
        for term, frequency in Counter(term for count in counts for term in count).items():
            found = np.array([count[term] for count in counts])
            rarity = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
            norm = K1 * (1 - B + B * lengths / lengths.mean())
            self._postings[term] = (rarity * found * (K1 + 1) / (found + norm)).astype(np.float32)

    def search(self, text: str, vector: Vectors, limit: int, without: int = -1) -> list[int]:
        """Return the numbers of the best `limit` texts, leaving out text number `without`."""
        dense = self._vectors @ vector
        sparse = np.zeros_like(dense)
        for term in _terms(text):
            sparse += self._postings.get(term, 0.0)
        fused = np.zeros(len(dense))
        for scores, floor in ((dense, -1.0), (sparse, 0.0)):
            ranked = [at for at in np.argsort(-scores, kind="stable").tolist() if at != without and scores[at] > floor]
            fused[ranked[:DEPTH]] += 1 / (RRF_K + 1 + np.arange(len(ranked[:DEPTH])))
        return [at for at in np.argsort(-fused, kind="stable").tolist() if fused[at] > 0][:limit]


def _terms(text: str) -> list[str]:
    return [term for term in WORD.findall(text.lower()) if term not in STOP_WORDS]
