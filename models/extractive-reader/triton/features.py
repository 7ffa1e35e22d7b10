"""Measures how well each sentence, and the best one's passage, fit a question."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from words import Rarity, Word, is_name, is_number, is_time, word_set, words_of

Vectors = NDArray[np.float32]
Matches = Mapping[str, float]  # question stem -> how well it is matched, 0 to 1

RELATED = 0.7  # the worth of a word that only resembles the one asked for (same beginning, or a misspelling)
PREFIX = 5  # characters two stems must share to be related
DICE = 0.65  # or the Dice overlap of their letter pairs
MAX_STEMS = 64  # stems of a question that count, rarest first

SENTENCE_FEATURES = (
    "overlap",  # share of the question's weight found in the sentence
    "before",  # what the sentence before it adds to that
    "after",  # what the sentence after it adds
    "elsewhere",  # what the rest of its passage and the title add
    "missing_names",  # share of the question's names that it lacks
    "cosine",  # of the question's and its vectors
    "passage_cosine",  # mean over its passage
    "kind_found",  # 1 when it holds new words of the kind asked for (a date, a number, a name, a reason)
    "kind_missing",  # 1 when a kind is asked for and it holds none
    "early",  # 1 / rank of its passage
)
ANSWER_FEATURES = (
    "score",  # of the best sentence
    "overlap",
    "cosine",
    "best_cosine",  # highest of any sentence
    "cosine_gap",  # the best sentence's cosine less the highest in another passage
    "passage_overlap",  # share of the question's weight found in the best sentence's passage
    "missing_names",  # share of the question's names that this passage lacks
    "kind",  # kind_found - kind_missing
)
NEUTRAL_GAP = 0.1  # cosine_gap when there is no other passage to compare with


class Kind(Enum):
    """What sort of words answers a question."""

    TIME = "time"
    NUMBER = "number"
    NAME = "name"
    REASON = "reason"
    ANY = "any"


KINDS = (
    (Kind.TIME, r"\bwhen\b|\b(what|which) (year|date|day|month|century|decade|season|time)\b"),
    (Kind.NUMBER, r"\bhow (many|much|long|far|old|tall|large|big|high|often|fast|heavy|wide|deep)\b"),
    (
        Kind.NUMBER,
        r"\bwhat (percent|percentage|number|amount|fraction|share|proportion|population|age|distance|size)\b",
    ),
    (Kind.NAME, r"\b(who|whom|whose|where)\b"),
    (Kind.NAME, r"\b(what|which) (\w+ )?(city|country|state|person|team|company|river|school)\b"),
    (Kind.REASON, r"\bwhy\b|\bfor what reason\b"),
)
REASONS = word_set("because due since so therefore thus order reason caus result owing")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a passage: the passage's rank from 0, its place there from 0, and its words."""

    passage: int
    place: int
    text: str
    words: tuple[Word, ...]

    @classmethod
    def read(cls, passage: int, place: int, text: str) -> "Sentence":
        """Return the sentence with its words found."""
        return cls(passage, place, text, tuple(words_of(text)))


@dataclass(frozen=True, slots=True)
class Query:
    """A question taken apart: the weight of each content stem (they sum to 1) and the kind of answer it wants."""

    kind: Kind
    weights: Mapping[str, float]
    related: Mapping[str, frozenset[str]]
    stems: frozenset[str]
    names: frozenset[str]

    def matches(self, words: Sequence[Word]) -> Matches:
        """Return the question's stems found among `words`: 1 for the same stem, RELATED for one that resembles it."""
        stems = {word.stem for word in words}
        found = {stem: RELATED for stem, others in self.related.items() if not others.isdisjoint(stems)}
        return found | {stem: 1.0 for stem in self.weights if stem in stems}

    def cover(self, *found: Matches) -> float:
        """Return the share, 0 to 1, of the question's weight that the union of `found` covers."""
        return sum(weight * max(part.get(stem, 0.0) for part in found) for stem, weight in self.weights.items())

    def missing_names(self, found: Matches) -> float:
        """Return the share, 0 to 1, of the question's names that `found` lacks."""
        return sum(name not in found for name in self.names) / max(1, len(self.names))

    def kind_fits(self, words: Sequence[Word]) -> bool:
        """Tell whether words that the question does not hold could be its answer, by their kind."""
        fresh = [word for word in words if word.stem not in self.stems]
        if self.kind is Kind.TIME:
            return any(map(is_time, fresh))
        if self.kind is Kind.NUMBER:
            return any(map(is_number, fresh))
        if self.kind is Kind.NAME:
            return any(map(is_name, fresh))
        if self.kind is Kind.REASON:
            return any(word.stem in REASONS for word in fresh)
        return bool(fresh)


def read_query(question: str, sentences: Sequence[Sentence], rarity: Rarity) -> Query:
    """Take the question apart; a stem weighs by its rarity in English and among these sentences."""
    words = words_of(question)
    frequency = Counter(stem for sentence in sentences for stem in {word.stem for word in sentence.words})
    weights: dict[str, float] = {}
    for word in words:
        weight = rarity.of(word) * (0.3 + _local_rarity(frequency[word.stem], max(1, len(sentences))))
        if weight > 0:
            weights[word.stem] = max(weight, weights.get(word.stem, 0.0))
    weights = dict(sorted(weights.items(), key=lambda item: -item[1])[:MAX_STEMS])
    whole = sum(weights.values()) or 1.0
    lowered = " ".join(word.folded for word in words)
    return Query(
        kind=next((kind for kind, pattern in KINDS if re.search(pattern, lowered)), Kind.ANY),
        weights={stem: weight / whole for stem, weight in weights.items()},
        related={stem: frozenset(other for other in frequency if _resembles(stem, other)) for stem in weights},
        stems=frozenset(word.stem for word in words),
        names=frozenset(word.stem for word in words[1:] if is_name(word) and word.stem in weights),
    )


def _local_rarity(frequency: int, sentences: int) -> float:
    """Return the smoothed inverse sentence frequency (Robertson, Sparck Jones 1976), 1 for an unseen stem."""
    return math.log(1 + sentences / (0.5 + frequency)) / math.log(1 + sentences / 0.5)


def _resembles(stem: str, other: str) -> bool:
    if stem == other or min(len(stem), len(other)) < PREFIX or not (stem.isalpha() and other.isalpha()):
        return False
    if stem[:PREFIX] == other[:PREFIX]:
        return True
    if stem[0] != other[0] or abs(len(stem) - len(other)) > 2:
        return False
    ours, theirs = set(pairwise(stem)), set(pairwise(other))
    return 2 * len(ours & theirs) >= DICE * (len(ours) + len(theirs))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured: `features` [sentences, features], `cosines` [sentences], what each passage holds."""

    query: Query
    sentences: Sequence[Sentence]
    cosines: Vectors
    in_passage: Sequence[Matches]
    features: Vectors

    def answer_features(self, scores: Vectors) -> Vectors:
        """Return the ANSWER_FEATURES of the sentence with the highest of `scores` [sentences]."""
        best = int(np.argmax(scores))
        passage = self.sentences[best].passage
        row = dict(zip(SENTENCE_FEATURES, self.features[best].tolist(), strict=True))
        others = [self.cosines[at] for at, sentence in enumerate(self.sentences) if sentence.passage != passage]
        found = self.in_passage[passage]
        values = (
            float(scores[best]),
            row["overlap"],
            row["cosine"],
            float(self.cosines.max()),
            row["cosine"] - float(max(others)) if others else NEUTRAL_GAP,
            self.query.cover(found),
            self.query.missing_names(found),
            row["kind_found"] - row["kind_missing"],
        )
        return np.array(values, np.float32)


def measure(query: Query, sentences: Sequence[Sentence], titles: Sequence[str], cosines: Vectors) -> Evidence:
    """Measure every sentence; one title per passage; `cosines` [sentences] of the question and each sentence."""
    found = [query.matches(sentence.words) for sentence in sentences]
    in_passage = [query.matches(words_of(title)) for title in titles]
    by_passage: list[list[float]] = [[] for _ in titles]
    for sentence, part, cosine in zip(sentences, found, cosines.tolist(), strict=True):
        in_passage[sentence.passage] = _union(in_passage[sentence.passage], part)
        by_passage[sentence.passage].append(cosine)
    means = [sum(values) / max(1, len(values)) for values in by_passage]
    rows = []
    for at, sentence in enumerate(sentences):
        before = found[at - 1] if sentence.place > 0 else {}
        last = at + 1 == len(sentences) or sentences[at + 1].passage != sentence.passage
        after = {} if last else found[at + 1]
        words = _word_features(query, found[at], (before, after, in_passage[sentence.passage]))
        rows.append([*words, float(cosines[at]), means[sentence.passage], *_kind_features(query, sentence)])
    return Evidence(query, sentences, cosines, in_passage, np.array(rows, np.float32))


def _union(one: Matches, other: Matches) -> Matches:
    return {stem: max(one.get(stem, 0.0), other.get(stem, 0.0)) for stem in {**one, **other}}


def _word_features(query: Query, own: Matches, around: tuple[Matches, Matches, Matches]) -> list[float]:
    before, after, passage = around
    overlap = query.cover(own)
    near = query.cover(own, before, after)
    return [
        overlap,
        query.cover(own, before) - overlap,
        query.cover(own, after) - overlap,
        query.cover(own, passage) - near,
        query.missing_names(own),
    ]


def _kind_features(query: Query, sentence: Sentence) -> list[float]:
    asked = query.kind is not Kind.ANY
    fits = query.kind_fits(sentence.words)
    return [float(asked and fits), float(asked and not fits), 1 / (1 + sentence.passage)]
