"""Writes a late-interaction ranker as an ONNX graph: an encoder, then how well passages cover the query's words."""

from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from model_repository.encoder_graph import Dialect, EncoderShape, GraphWriter, Weights, encode_tokens, finish

FIRST_FREQUENT: Final = 996
"""BERT's vocabulary has special tokens, then single characters, then words and pieces by falling frequency."""
SPECIAL: Final = (0, 100, 101, 102, 103)
"""[PAD], [UNK], [CLS], [SEP] and [MASK] of BERT's vocabularies: no words, so they count for nothing."""
ABSENT: Final = 2.0
"""Taken off the likeness of what is no word, which is from -1 to 1: it is then the best of a row for no query token."""
LEAST_DIVISOR: Final = 1e-9


def word_weights(vocabulary: int) -> npt.NDArray[np.float32]:
    """Return what each token of a query counts [vocabulary]: the logarithm of its rank, 0 for special tokens."""
    weights = np.log1p(np.maximum(np.arange(vocabulary) - FIRST_FREQUENT, 0) + 1.0).astype(np.float32)
    weights[list(SPECIAL)] = 0.0
    return weights


def build_ranker(weights: Weights, shape: EncoderShape, dialect: Dialect) -> onnx.ModelProto:
    """Return the model: `input_ids`, `attention_mask` INT64 [1 + N, L] -> `scores` FP32 [N].

    Row 0 is the query, the others are the passages. A score is the mean over the query's tokens, weighted by how rare
    each is, of its cosine to the passage's likest token (Khattab and Zaharia 2020, ColBERT: MaxSim), from -1 to 1; a
    passage without a word has -ABSENT, and a query without one gives 0 to every passage.

    Also what scores are made of, for who keeps it: `directions` FP32 [1 + N, L, hidden], the unit vector of each token,
    and `counted` FP32 [1 + N, L], what it counts in a query, 0 where it is no word.
    """
    graph = GraphWriter()
    directions = _unit(graph, encode_tokens(graph, weights, shape, dialect))
    counted = _counted(graph, word_weights(len(weights["embeddings.word_embeddings.weight"])))
    query, passages = (_rows(graph, directions, *rows, f"{name}.states") for name, rows in PARTS.items())
    query_weights, passage_weights = (_rows(graph, counted, *rows, f"{name}.weights") for name, rows in PARTS.items())
    turned = graph.node("Transpose", [query], "query.turned", perm=[0, 2, 1])
    likeness = graph.node("MatMul", [passages, turned], "likeness")
    best = _best(graph, likeness, passage_weights)
    _mean(graph, best, query_weights)
    outputs = {"scores": ["P"], "directions": ["N", "L", shape.hidden], "counted": ["N", "L"]}
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in outputs.items()]
    return finish(graph, "passage_ranker", told)


PARTS: Final = {"query": (0, 1), "passages": (1, np.iinfo(np.int64).max)}
"""First and last row of each part."""


def _unit(graph: GraphWriter, states: str) -> str:
    """Divide each token's state by its length."""
    last = graph.constant("axis.last", np.array([-1], np.int64))
    length = graph.node("ReduceL2", [states, last], "states.length", keepdims=1)
    safe = graph.node("Max", [length, graph.constant("least.length", np.float32(1e-12))], "states.divisor")
    return graph.node("Div", [states, safe], "directions")


def _counted(graph: GraphWriter, table: npt.NDArray[np.float32]) -> str:
    """[1 + N, L]: what each token counts, 0 for special tokens and padding."""
    looked_up = graph.node("Gather", [graph.constant("words.weight", table), "input_ids"], "words.counted")
    kept = graph.node("Cast", ["attention_mask"], "mask.kept", to=TensorProto.FLOAT)
    return graph.node("Mul", [looked_up, kept], "counted")


def _rows(graph: GraphWriter, values: str, first: int, last: int, output: str) -> str:
    bounds = [graph.constant(f"row.{bound}", np.array([bound], np.int64)) for bound in (first, last)]
    axis = graph.constant("axis.0", np.array([0], np.int64))
    return graph.node("Slice", [values, *bounds, axis], output)


def _best(graph: GraphWriter, likeness: str, passage_weights: str) -> str:
    """[N, Lq]: the likeness [N, Lp, Lq] of each query token to the likest word of the passage."""
    word = graph.node("Greater", [passage_weights, graph.constant("nothing", np.float32(0))], "passages.word")
    present = graph.node("Cast", [word], "passages.present", to=TensorProto.FLOAT)
    wide = graph.node("Unsqueeze", [present, graph.constant("axis.last", np.array([-1], np.int64))], "passages.wide")
    missing = graph.node("Sub", [wide, graph.constant("one", np.float32(1))], "passages.missing")
    taken_off = graph.node("Mul", [missing, graph.constant("absent", np.float32(ABSENT))], "passages.absent")
    kept = graph.node("Mul", [likeness, wide], "likeness.kept")
    judged = graph.node("Add", [kept, taken_off], "likeness.judged")
    return graph.node("ReduceMax", [judged, graph.constant("axis.1", np.array([1], np.int64))], "best", keepdims=0)


def _mean(graph: GraphWriter, best: str, query_weights: str) -> str:
    axis = graph.constant("axis.1", np.array([1], np.int64))
    total = graph.node(
        "ReduceSum", [graph.node("Mul", [best, query_weights], "weighed"), axis], "weighed.sum", keepdims=0
    )
    weight = graph.node("ReduceSum", [query_weights, axis], "weight.sum", keepdims=0)
    safe = graph.node("Max", [weight, graph.constant("least.weight", np.float32(LEAST_DIVISOR))], "weight.divisor")
    return graph.node("Div", [total, safe], "scores")
