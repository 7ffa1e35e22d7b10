"""Fits triton/weights.json on the even-numbered articles of a SQuAD-format file and reports on the odd-numbered ones.

    python fit.py --questions xquad.en.json --encoder REPOSITORY/minilm-l6 [--write]

Deterministic; without --write it reports the weights in use. It takes about a minute.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "triton"))

from encoder import SentenceEncoder, Tokens  # noqa: E402  (the path above comes first)
from features import ANSWER_FEATURES, SENTENCE_FEATURES, Evidence, Sentence, Vectors, measure, read_query  # noqa: E402
from prompt import Passage  # noqa: E402
from reader import Weights, choose, sentences_of  # noqa: E402
from words import Rarity  # noqa: E402
from xquad import HybridSearch, Question, read  # noqa: E402

WEIGHTS = HERE / "triton" / "weights.json"
PASSAGES = 5
RIDGE = 1.0  # on standardised features
FALSE_DECLINES = 0.075  # of the answerable questions it is fitted on
SECOND_LOSS = 0.003  # of containment, for leaving out second sentences
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A question with the passages found for it, measured; `gold` [sentences] marks those that hold the answer."""

    question: Question
    evidence: Evidence
    gold: NDArray[np.bool_]


class Corpus:
    """The file's paragraphs, indexed, and its questions."""

    def __init__(self, path: Path, encoder: SentenceEncoder, rarity: Rarity) -> None:
        """Encode every paragraph, sentence and question once."""
        self._paragraphs, self.questions = read(path)
        self._encoder, self._rarity = encoder, rarity
        self._search = HybridSearch(
            [p.text for p in self._paragraphs], encoder.encode([p.text for p in self._paragraphs])
        )
        encoder.encode([question.text for question in self.questions])

    def case(self, question: Question, passages: int, answerable: bool) -> Case:
        """Return the question with its best passages; without its own paragraph if it is not to be answerable."""
        asked = self._encoder.encode([question.text])[0]
        without = -1 if answerable else question.paragraph
        found = [self._paragraphs[at] for at in self._search.search(question.text, asked, passages, without)]
        sentences = sentences_of([Passage(n, p.title, p.text) for n, p in enumerate(found, 1)])
        query = read_query(question.text, sentences, self._rarity)
        vectors = self._encoder.encode([sentence.text for sentence in sentences])
        evidence = measure(query, sentences, [p.title for p in found], vectors @ asked)
        return Case(question, evidence, np.array([_holds(sentence, question) for sentence in sentences]))

    def cases(self, passages: int, answerable: bool) -> list[Case]:
        """Return the case of every question, in order."""
        return [self.case(question, passages, answerable) for question in self.questions]


def _holds(sentence: Sentence, question: Question) -> bool:
    return " ".join(question.gold.lower().split()) in " ".join(sentence.text.lower().split())


def fit_ranking(cases: Iterable[Case]) -> Doubles:
    """Return weights that maximise the probability (softmax over a case's sentences) of those that hold the answer."""
    usable = [case for case in cases if case.gold.any()]
    spread = np.concatenate([case.evidence.features for case in usable]).std(axis=0).astype(np.float64) + 1e-9
    scaled = [(case.evidence.features / spread, case.gold) for case in usable]
    weights: Doubles = np.zeros(len(spread))
    for _ in range(50):
        step = _ranking_step(scaled, weights)
        loss = _ranking_loss(scaled, weights)
        while _ranking_loss(scaled, weights - step) > loss and np.abs(step).max() > 1e-6:
            step *= 0.5  # not convex when two sentences hold the answer: go only downhill
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    found: Doubles = weights / spread
    return found


def _ranking_loss(scaled: Sequence[tuple[Doubles, NDArray[np.bool_]]], weights: Doubles) -> float:
    loss = sum(-np.log(_softmax(rows @ weights)[gold].sum()) for rows, gold in scaled)
    return float(loss + RIDGE * weights @ weights / 2)


def _ranking_step(scaled: Sequence[tuple[Doubles, NDArray[np.bool_]]], weights: Doubles) -> Doubles:
    """Return the Fisher scoring step: the gradient over the expected curvature."""
    gradient: Doubles = RIDGE * weights
    curvature: Doubles = np.eye(len(weights)) * RIDGE
    for rows, gold in scaled:
        chance = _softmax(rows @ weights)
        right = np.where(gold, chance, 0.0) / chance[gold].sum()
        mean = rows.T @ chance
        gradient += mean - rows.T @ right
        curvature += (rows.T * chance) @ rows - np.outer(mean, mean)
    step: Doubles = np.linalg.solve(curvature, gradient)
    return step


def _softmax(scores: Doubles) -> Doubles:
    raised: Doubles = np.exp(scores - scores.max())
    chances: Doubles = np.maximum(raised / raised.sum(), 1e-12)
    return chances


def fit_logistic(rows: Doubles, answerable: Doubles) -> tuple[Doubles, float]:
    """Return the ridge logistic regression of `answerable` [n] on `rows` [n, features]: weights and bias."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    scaled = np.c_[(rows - mean) / spread, np.ones(len(rows))]
    ridge = np.diag([RIDGE] * rows.shape[1] + [0.0])
    weights = np.zeros(scaled.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-scaled @ weights))
        curvature = (scaled.T * (chance * (1 - chance))) @ scaled + ridge
        step = np.linalg.solve(curvature, scaled.T @ (chance - answerable) + ridge @ weights)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return weights[:-1] / spread, float(weights[-1] - (weights[:-1] * mean / spread).sum())


def fit(answerable: Sequence[Case], unanswerable: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Return the content of weights.json, fitted to these cases."""
    ranking = fit_ranking(answerable)
    rows = np.array([_answer_row(case, ranking) for case in [*answerable, *unanswerable]], np.float64)
    labels = np.array([1.0] * len(answerable) + [0.0] * len(unanswerable))
    weights, bias = fit_logistic(rows, labels)
    odds = rows[: len(answerable)] @ weights + bias
    return {
        "sentence": _named(SENTENCE_FEATURES, ranking),
        "answer": {**_named(ANSWER_FEATURES, weights), "bias": round(bias, 4)},
        "thresholds": {
            "decline_below": round(float(np.quantile(odds, FALSE_DECLINES)), 4),
            "second_within": _fit_second(answerable, ranking),
        },
    }


def _answer_row(case: Case, ranking: Doubles) -> Vectors:
    return case.evidence.answer_features((case.evidence.features @ ranking).astype(np.float32))


def _named(names: Sequence[str], values: Doubles) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(names, values, strict=True)}


def _fit_second(cases: Sequence[Case], ranking: Doubles) -> float:
    """Return the gap in score beyond which a second sentence is left out, at the cost of SECOND_LOSS."""
    needed = []
    for case in cases:
        scores = case.evidence.features @ ranking
        best, second = np.argsort(-scores, kind="stable")[:2].tolist()
        if case.gold[second] and not case.gold[best]:
            needed.append(float(scores[best] - scores[second]))
    lost = int(SECOND_LOSS * len(cases))
    return round(sorted(needed, reverse=True)[lost], 4)


def report(answerable: Sequence[Case], unanswerable: Sequence[Case], weights: Weights) -> dict[str, float]:
    """Return the shares of answers contained, of unanswerable questions declined and of answerable ones declined."""
    chosen = [choose(case.evidence, weights) for case in answerable]
    contained = [any(_holds(s, case.question) for s in found) for found, case in zip(chosen, answerable, strict=True)]
    declined = [not choose(case.evidence, weights) for case in unanswerable]
    answered = [len(found) for found in chosen if found]
    return {
        "questions": len(answerable),
        "contained": round(float(np.mean(contained)), 3),
        "declined": round(float(np.mean(declined)), 3),
        "falsely_declined": round(1 - len(answered) / len(chosen), 3),
        "sentences_per_answer": round(float(np.mean(answered)), 2),
    }


def half(cases: Sequence[Case], remainder: int) -> list[Case]:
    """Return the cases of the even (0) or odd (1) articles."""
    return [case for case in cases if case.question.article % 2 == remainder]


def open_encoder(folder: Path) -> tuple[SentenceEncoder, Rarity, str]:
    """Return the encoder in a built model folder, its vocabulary's rarity and the graph's sha256."""
    graph = next(folder.glob("*/model.onnx"))
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])

    def run(ids: Tokens, mask: Tokens) -> Vectors:
        vectors: Vectors = session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
        return vectors

    tokenizer = folder / "tokenizer.json"
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    return SentenceEncoder(Tokenizer.from_file(str(tokenizer)), run), Rarity.from_tokenizer(tokenizer), digest


def main() -> None:
    """Report, and write the weights when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="a SQuAD 1.1 file")
    parser.add_argument(
        "--encoder", type=Path, required=True, help="built folder of the encoder: tokenizer.json, 1/model.onnx"
    )
    parser.add_argument("--write", action="store_true", help="fit, and write weights.json")
    arguments = parser.parse_args()
    encoder, rarity, digest = open_encoder(arguments.encoder)
    corpus = Corpus(arguments.questions, encoder, rarity)
    answerable, unanswerable = corpus.cases(PASSAGES, True), corpus.cases(PASSAGES, False)
    content: dict[str, Any] = json.loads(WEIGHTS.read_text(encoding="utf-8")) if WEIGHTS.exists() else {}
    if arguments.write:
        content = {
            "version": content.get("version", 0) + 1,
            "fitted_on": {},
            **fit(half(answerable, 0), half(unanswerable, 0)),
        }
    weights = Weights.of(content)
    results = {
        "held_out": report(half(answerable, 1), half(unanswerable, 1), weights),
        "fitted": report(half(answerable, 0), half(unanswerable, 0), weights),
        "all": report(answerable, unanswerable, weights),
    }
    for passages in (1, 2, 3, 10):
        results[f"all, {passages} passages"] = report(
            corpus.cases(passages, True), corpus.cases(passages, False), weights
        )
    for name, result in results.items():
        print(f"{name:18} {result}")  # noqa: T201 - a command line
    if arguments.write:
        content["fitted_on"] = {
            "command": "python fit.py --questions xquad.en.json --encoder REPOSITORY/minilm-l6 --write",
            "questions": f"{arguments.questions.name}, even-numbered articles; sha256 {_digest(arguments.questions)}",
            "encoder_sha256": digest,
            "held_out": results["held_out"],
        }
        WEIGHTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
