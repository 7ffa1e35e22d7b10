"""Answers a question with at most two sentences of the passages sent with it, or says that they do not answer it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from features import ANSWER_FEATURES, SENTENCE_FEATURES, Evidence, Sentence, Vectors, measure, read_query
from prompt import GroundedQuestion, Passage, parse
from sentences import split_sentences
from words import Rarity

DECLINED = "The passages do not answer this question."
NO_PASSAGES = (
    "This is Penstock's built-in extractive reader. It answers a question with sentences from the passages "
    "sent with it and writes no text of its own, and this prompt holds no passages. For free text, configure a "
    "generative model in the catalogue: see docs/models.md."
)
# Work per question is bounded; what lies beyond these is not read.
MAX_PROMPT_CHARS = 2_000_000
MAX_QUESTION_CHARS = 2_000
MAX_PASSAGES = 20
MAX_PASSAGE_CHARS = 8_000
MAX_SENTENCES = 200
CITATION_MARK = re.compile(r"\s?\[\d{1,6}\]")


class PromptTooLong(ValueError):
    """The prompt has more than MAX_PROMPT_CHARS characters."""


class Encoder(Protocol):
    """Turns texts into unit vectors."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector per text [texts, dimensions]."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The fitted numbers: weights of a sentence's score, of the answer's log-odds, and a threshold on each."""

    sentence: Vectors
    answer: Vectors
    bias: float
    decline_below: float
    second_within: float

    @classmethod
    def load(cls, path: Path) -> "Weights":
        """Read weights.json; KeyError when it lacks a feature that this code measures."""
        return cls.of(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def of(cls, content: Mapping[str, Mapping[str, float]]) -> "Weights":
        """Return the weights in `content`, in the order this code measures."""
        return cls(
            sentence=np.array([content["sentence"][name] for name in SENTENCE_FEATURES], np.float32),
            answer=np.array([content["answer"][name] for name in ANSWER_FEATURES], np.float32),
            bias=content["answer"]["bias"],
            decline_below=content["thresholds"]["decline_below"],
            second_within=content["thresholds"]["second_within"],
        )


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads prompts; holds no state of its own, so one may serve all requests."""

    encoder: Encoder
    rarity: Rarity
    weights: Weights

    def answer(self, prompt: str) -> list[str]:
        """Return the answer in parts to be joined as they are, each a sentence with its citation.

        Raises PromptTooLong, or MalformedPrompt when the prompt opens a block of passages and breaks its format.
        """
        if len(prompt) > MAX_PROMPT_CHARS:
            raise PromptTooLong(f"the prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARS} are allowed")
        asked = parse(prompt)
        if asked is None:
            return [NO_PASSAGES]
        chosen = self.choose(asked)
        cited = [f"{sentence.text} [{asked.passages[sentence.passage].number}]" for sentence in chosen]
        return [cited[0], *(f" {part}" for part in cited[1:])] if cited else [DECLINED]

    def choose(self, asked: GroundedQuestion) -> list[Sentence]:
        """Return the one or two sentences that answer the question, best first, or none."""
        sentences = sentences_of(asked.passages)
        if not sentences:
            return []
        question = asked.question[:MAX_QUESTION_CHARS]
        vectors = self.encoder.encode([question, *(sentence.text for sentence in sentences)])
        query = read_query(question, sentences, self.rarity)
        titles = [passage.title for passage in asked.passages[:MAX_PASSAGES]]
        return choose(measure(query, sentences, titles, vectors[1:] @ vectors[0]), self.weights)


def sentences_of(passages: Sequence[Passage]) -> list[Sentence]:
    """Return the sentences that may be quoted, within the limits above; marks such as [3] are left out of their text.

    A passage's own marks would read as citations of ours, and a passage that quotes DECLINED as our refusal.
    """
    found: list[Sentence] = []
    for rank, passage in enumerate(passages[:MAX_PASSAGES]):
        texts = (CITATION_MARK.sub("", text).strip() for text in split_sentences(passage.text[:MAX_PASSAGE_CHARS]))
        kept = [text for text in texts if text and DECLINED.rstrip(".").casefold() not in text.casefold()]
        found.extend(Sentence.read(rank, place, text) for place, text in enumerate(kept))
    return found[:MAX_SENTENCES]


def choose(evidence: Evidence, weights: Weights) -> list[Sentence]:
    """Return the one or two best sentences, best first, or none when the evidence is too weak to answer."""
    scores = evidence.features @ weights.sentence
    if evidence.answer_features(scores) @ weights.answer + weights.bias < weights.decline_below:
        return []
    best, *rest = np.argsort(-scores, kind="stable").tolist()
    second = [at for at in rest[:1] if scores[best] - scores[at] <= weights.second_within]
    return [evidence.sentences[at] for at in [best, *second]]
