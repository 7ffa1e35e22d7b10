"""Measures the encoders of a repository on this machine: speed, size, agreement with fp32, retrieval."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import yaml
from tokenizers import Tokenizer

BATCH = 32
TOKENS = 24
ROUNDS = 30
THREADS = 1
REFERENCE = "fp32"

Tokens = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Questions:
    """Paragraphs, and questions with the index of the paragraph that answers each."""

    paragraphs: list[str]
    questions: list[str]
    sources: npt.NDArray[np.intp]

    @classmethod
    def read(cls, path: Path) -> "Questions":
        """Return the paragraphs and questions of a SQuAD-format file."""
        articles = json.loads(path.read_text("utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        asked = [(one["question"], index) for index, paragraph in enumerate(paragraphs) for one in paragraph["qas"]]
        sources = np.array([index for _, index in asked])
        return cls([paragraph["context"] for paragraph in paragraphs], [question for question, _ in asked], sources)


@dataclass(frozen=True, slots=True)
class MeasuredEncoder:
    """An encoder of the repository, open for measuring with THREADS threads."""

    name: str
    precision: str
    graph: Path
    session: ort.InferenceSession
    tokenizer: Tokenizer

    @classmethod
    def open(cls, manifest: Path) -> "MeasuredEncoder":
        """Open the encoder that a manifest describes."""
        described = json.loads(manifest.read_text("utf-8"))
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        graph = manifest.parent / described["version"] / "model.onnx"
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        tokenizer = Tokenizer.from_file(str(manifest.parent / "tokenizer.json"))
        tokenizer.enable_truncation(described["max_tokens"])
        tokenizer.enable_padding()
        return cls(described["name"], described["precision"], graph, session, tokenizer)

    def run(self, ids: Tokens, mask: Tokens) -> Vectors:
        """Return one vector per row."""
        vectors: Vectors = self.session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
        return vectors

    def encode(self, texts: Sequence[str], batch: int = BATCH) -> Vectors:
        """Return one vector per text, in order; texts of similar length share a batch."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(texts), batch):
            rows = order[start : start + batch]
            coded = self.tokenizer.encode_batch([texts[row] for row in rows])
            vectors[rows] = self.run(
                np.array([one.ids for one in coded]), np.array([one.attention_mask for one in coded])
            )
        return vectors


def calibration_texts(path: Path) -> list[str]:
    """Return the paragraphs of every other article of a SQuAD-format file, each with its first question."""
    articles = json.loads(path.read_text("utf-8"))["data"][::2]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    return [text for one in paragraphs for text in (one["context"], one["qas"][0]["question"])]


def measure_variants(repository: Path, questions: Path) -> Iterator[str]:
    """Yield YAML for the cards: `cost` and `quality` of each encoder. They take turns, so that noise hits all."""
    manifests = [path for path in sorted(repository.glob("*/manifest.json")) if "pooling" in path.read_text("utf-8")]
    encoders = [MeasuredEncoder.open(path) for path in manifests]
    asked = Questions.read(questions)
    yield _yaml("cost", _costs(encoders))
    exact = next(encoder for encoder in encoders if encoder.precision == REFERENCE).encode(asked.questions)
    yield _yaml("quality", {encoder.name: _quality(encoder, asked, exact) for encoder in encoders})


def _costs(encoders: Sequence[MeasuredEncoder]) -> dict[str, dict[str, float]]:
    ids = np.random.default_rng(0).integers(1000, 29000, (BATCH, TOKENS))
    batches = {encoder.name: np.empty(ROUNDS) for encoder in encoders}
    singles = {encoder.name: np.empty(ROUNDS) for encoder in encoders}
    for turn in range(ROUNDS):
        for encoder in encoders:
            batches[encoder.name][turn] = _seconds(encoder, ids)
            singles[encoder.name][turn] = _seconds(encoder, ids[:1])
    return {
        encoder.name: {
            "graph_mb": round(encoder.graph.stat().st_size / 1e6, 1),
            f"texts_per_s_batch_{BATCH}_median": round(BATCH / float(np.median(batches[encoder.name]))),
            f"texts_per_s_batch_{BATCH}_best": round(BATCH / float(batches[encoder.name].min())),
            "ms_one_text_p50": round(float(np.median(singles[encoder.name])) * 1e3, 2),
        }
        for encoder in encoders
    }


def _seconds(encoder: MeasuredEncoder, ids: Tokens) -> float:
    mask = np.ones_like(ids)
    started = time.perf_counter()
    encoder.run(ids, mask)
    return time.perf_counter() - started


def _quality(encoder: MeasuredEncoder, asked: Questions, exact: Vectors) -> dict[str, float]:
    """Agreement with fp32 on the questions, the effect of batch mates, and dense retrieval of the source paragraph."""
    queries = encoder.encode(asked.questions)
    cosines = (queries * exact).sum(axis=1)
    alone = encoder.encode(asked.questions[:BATCH], batch=1)
    scores = queries @ encoder.encode(asked.paragraphs).T
    own = scores[np.arange(len(asked.sources)), asked.sources]
    ranks = (scores > own[:, None]).sum(axis=1)
    return {
        "cosine_to_fp32_mean": round(float(cosines.mean()), 5),
        "cosine_to_fp32_min": round(float(cosines.min()), 5),
        "largest_change_by_batch_mates": float(f"{np.abs(alone - queries[:BATCH]).max():.1e}"),
        "recall_at_1": round(float((ranks < 1).mean()), 4),
        "recall_at_5": round(float((ranks < 5).mean()), 4),
    }


def _yaml(name: str, values: dict[str, dict[str, float]]) -> str:
    return yaml.safe_dump({name: values}, sort_keys=False).rstrip()
