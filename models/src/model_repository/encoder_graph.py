"""Writes a BERT sentence encoder as an ONNX graph, from its weights alone and without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_repository.activations import Spans
from model_repository.quantisation import quantise_columns, quantise_rows

OPSET = 20
IR_VERSION = 9
MICROSOFT = "com.microsoft"
LEAST_FLOAT = -3.0e38
"""Added to the score of a padding token: finite, so that an all-padding row gives no NaN."""

Weights = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes of a BERT encoder, as its `config.json` states them."""

    layers: int
    heads: int
    hidden: int
    layer_norm_epsilon: float


@dataclass(slots=True)
class GraphWriter:
    """Collects nodes and constants; every method that adds a node returns the name of its output."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Add a constant once; a second call with the same name keeps the first value."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(
        self, operator: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: int | float | list[int]
    ) -> str:
        """Add a node with one output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense layer: weight [in, out] and bias [out]."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


class Dialect(Protocol):
    """How the parts that differ between runtimes are written."""

    def look_up(self, graph: GraphWriter, table: npt.NDArray[np.float32], ids: str) -> str:
        """Rows [N, L, hidden] of the word table for ids [N, L]."""

    def dense(self, graph: GraphWriter, states: str, layer: Dense, output: str) -> str:
        """states [N, L, in] times weight plus bias."""

    def attend(self, graph: GraphWriter, query_key_value: Sequence[str], shape: EncoderShape, output: str) -> str:
        """Multi-head attention over three [N, L, hidden]; padding has weight zero."""


class PortableFloat:
    """Standard ONNX operators in fp32: what TensorRT and every other runtime reads."""

    def look_up(self, graph: GraphWriter, table: npt.NDArray[np.float32], ids: str) -> str:
        """Rows of the fp32 table."""
        return graph.node("Gather", [graph.constant("words", table), ids], "embeddings.words")

    def dense(self, graph: GraphWriter, states: str, layer: Dense, output: str) -> str:
        """A plain MatMul and Add."""
        weight = graph.constant(f"{output}.product.weight", layer.weight)
        product = graph.node("MatMul", [states, weight], f"{output}.product")
        return graph.node("Add", [product, graph.constant(f"{output}.bias", layer.bias)], output)

    def attend(self, graph: GraphWriter, query_key_value: Sequence[str], shape: EncoderShape, output: str) -> str:
        """softmax(Q K^T / sqrt(size) + mask) V, head by head."""
        size = shape.hidden // shape.heads
        split = graph.constant("heads.split", np.array([0, 0, shape.heads, size], np.int64))
        query, key, value = (
            graph.node(
                "Transpose",
                [graph.node("Reshape", [part, split], f"{part}.split")],
                f"{part}.heads",
                perm=[0, 2, 3, 1] if index == 1 else [0, 2, 1, 3],
            )
            for index, part in enumerate(query_key_value)
        )
        scores = graph.node("MatMul", [query, key], f"{output}.scores")
        scaled = graph.node("Mul", [scores, graph.constant("heads.scale", np.float32(size**-0.5))], f"{output}.scaled")
        masked = graph.node("Add", [scaled, _mask_bias(graph)], f"{output}.masked")
        context = graph.node(
            "MatMul", [graph.node("Softmax", [masked], f"{output}.share", axis=-1), value], f"{output}.heads"
        )
        turned = graph.node("Transpose", [context], f"{output}.turned", perm=[0, 2, 1, 3])
        merge = graph.constant("heads.merge", np.array([0, 0, shape.hidden], np.int64))
        return graph.node("Reshape", [turned, merge], output)


class FusedFloat(PortableFloat):
    """fp32 with ONNX Runtime's fused attention: the exact variant of the cpu target."""

    def attend(self, graph: GraphWriter, query_key_value: Sequence[str], shape: EncoderShape, output: str) -> str:
        """One MultiHeadAttention node."""
        mask = _once(graph, "Cast", ["attention_mask"], "mask.int32", to=TensorProto.INT32)
        inputs = [*query_key_value, "", mask]
        return graph.node("MultiHeadAttention", inputs, output, MICROSOFT, num_heads=shape.heads)


@dataclass(frozen=True, slots=True)
class FusedInt8(FusedFloat):
    """int8 weights with a scale per output, uint8 activations with the fixed range that calibration found.

    The usual dynamic quantisation has one activation scale per tensor and batch, so that a text's vector moves with the
    texts and the padding it is batched with. Fixed ranges cost no reduction, and a vector depends on its text alone.
    """

    spans: Spans

    def look_up(self, graph: GraphWriter, table: npt.NDArray[np.float32], ids: str) -> str:
        """Rows of the int8 table times the scale of each row."""
        codes, scales = quantise_rows(table)
        rows = graph.node("Gather", [graph.constant("words.int8", codes), ids], "embeddings.codes")
        floats = graph.node("Cast", [rows], "embeddings.floats", to=TensorProto.FLOAT)
        factors = graph.node("Gather", [graph.constant("words.scale", scales), ids], "embeddings.scales")
        return graph.node("Mul", [floats, factors], "embeddings.words")

    def dense(self, graph: GraphWriter, states: str, layer: Dense, output: str) -> str:
        """Shrink the outlier channels, multiply in integers, and give the sizes and the bias back."""
        span = self.spans[states]
        factors = span.factors(len(layer.weight))
        codes, scales = quantise_columns(layer.weight * factors[:, None])
        if span.outliers:
            shrink = graph.constant(f"{states}.shrink", 1 / factors)
            shrunk = _once(graph, "Mul", [states, shrink], f"{states}.shrunk")
        else:
            shrunk = states
        step = graph.constant(f"{states}.step", np.float32(span.step))
        zero = graph.constant(f"{states}.zero", np.uint8(span.zero))
        quantised = _once(graph, "QuantizeLinear", [shrunk, step, zero], f"{states}.uint8")
        weights = graph.constant(f"{output}.int8", codes), graph.constant(f"{output}.scale", scales)
        bias = graph.constant(f"{output}.bias", layer.bias)
        inputs = [quantised, weights[0], step, weights[1], zero, "", bias]
        return graph.node("MatMulIntegerToFloat", inputs, output, MICROSOFT)


def build_encoder(weights: Weights, shape: EncoderShape, dialect: Dialect) -> onnx.ModelProto:
    """Return the model: `input_ids`, `attention_mask` INT64 [N, L] -> `embedding` FP32 [N, hidden].

    The vector is the mean over the tokens that the mask keeps, divided by its Euclidean length. Token types are all 0.
    """
    graph = GraphWriter()
    _pool(graph, encode_tokens(graph, weights, shape, dialect))
    vector = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", shape.hidden])
    return finish(graph, "sentence_encoder", [vector])


def encode_tokens(graph: GraphWriter, weights: Weights, shape: EncoderShape, dialect: Dialect) -> str:
    """Add the layers of the encoder; return the name of the last states, FP32 [N, L, hidden]."""
    states = _embed(graph, weights, shape, dialect)
    for layer in range(shape.layers):
        states = _layer(graph, weights, shape, dialect, f"encoder.layer.{layer}", states)
    return states


def finish(graph: GraphWriter, name: str, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """Return the checked model of a graph that reads `input_ids` and `attention_mask` INT64 [N, L]."""
    tokens = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "L"]) for name in ("input_ids", "attention_mask")
    ]
    body = helper.make_graph(graph.nodes, name, tokens, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(body, opset_imports=opsets, producer_name="penstock", ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _once(graph: GraphWriter, operator: str, inputs: Sequence[str], output: str, **attributes: int) -> str:
    known = any(output in node.output for node in graph.nodes)
    return output if known else graph.node(operator, inputs, output, "", **attributes)


def _mask_bias(graph: GraphWriter) -> str:
    """[N, 1, 1, L]: 0 for a token, LEAST_FLOAT for padding."""
    axes = graph.constant("mask.axes", np.array([1, 2], np.int64))
    kept = _once(graph, "Cast", ["attention_mask"], "mask.float", to=TensorProto.FLOAT)
    wide = _once(graph, "Unsqueeze", [kept, axes], "mask.wide")
    dropped = _once(graph, "Sub", [graph.constant("one", np.float32(1)), wide], "mask.dropped")
    return _once(graph, "Mul", [dropped, graph.constant("least", np.float32(LEAST_FLOAT))], "mask.bias")


def _norm(graph: GraphWriter, weights: Weights, shape: EncoderShape, name: str, states: str) -> str:
    scale = graph.constant(f"{name}.weight", weights[f"{name}.weight"])
    bias = graph.constant(f"{name}.bias", weights[f"{name}.bias"])
    return graph.node("LayerNormalization", [states, scale, bias], name, axis=-1, epsilon=shape.layer_norm_epsilon)


def _dense(graph: GraphWriter, weights: Weights, dialect: Dialect, name: str, states: str) -> str:
    """states times the layer's weight (stored [out, in]) plus its bias."""
    return dialect.dense(graph, states, Dense(weights[f"{name}.weight"].T, weights[f"{name}.bias"]), name)


def _embed(graph: GraphWriter, weights: Weights, shape: EncoderShape, dialect: Dialect) -> str:
    words = dialect.look_up(graph, weights["embeddings.word_embeddings.weight"], "input_ids")
    # Every token has type 0, so that row is folded into the positions.
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    table = graph.constant("positions", positions)
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    zero, axis = graph.constant("zero", np.array([0], np.int64)), graph.constant("axis.0", np.array([0], np.int64))
    used = graph.node("Slice", [table, zero, length, axis], "embeddings.positions")
    summed = graph.node("Add", [words, used], "embeddings.sum")
    return _norm(graph, weights, shape, "embeddings.LayerNorm", summed)


def _layer(graph: GraphWriter, weights: Weights, shape: EncoderShape, dialect: Dialect, name: str, states: str) -> str:
    parts = [
        _dense(graph, weights, dialect, f"{name}.attention.self.{part}", states) for part in ("query", "key", "value")
    ]
    context = dialect.attend(graph, parts, shape, f"{name}.attention.context")
    projected = _dense(graph, weights, dialect, f"{name}.attention.output.dense", context)
    attended = graph.node("Add", [projected, states], f"{name}.attention.residual")
    attended = _norm(graph, weights, shape, f"{name}.attention.output.LayerNorm", attended)
    inner = _dense(graph, weights, dialect, f"{name}.intermediate.dense", attended)
    active = graph.node("Gelu", [inner], f"{name}.gelu")
    outer = _dense(graph, weights, dialect, f"{name}.output.dense", active)
    return _norm(
        graph, weights, shape, f"{name}.output.LayerNorm", graph.node("Add", [outer, attended], f"{name}.residual")
    )


def _pool(graph: GraphWriter, states: str) -> str:
    """Mean over kept tokens, then unit length."""
    kept = _once(graph, "Cast", ["attention_mask"], "mask.float", to=TensorProto.FLOAT)
    row = graph.node("Unsqueeze", [kept, graph.constant("axis.1", np.array([1], np.int64))], "pool.row")
    total = graph.node("MatMul", [row, states], "pool.total")
    # The mean's divisor cancels in the division by the length: the sum has the same direction.
    flat = graph.node("Squeeze", [total, graph.constant("axis.1", np.array([1], np.int64))], "pool.sum")
    last = graph.constant("axis.last", np.array([-1], np.int64))
    length = graph.node("ReduceL2", [flat, last], "pool.length", keepdims=1)
    safe = graph.node("Max", [length, graph.constant("least.length", np.float32(1e-12))], "pool.divisor")
    return graph.node("Div", [flat, safe], "embedding")
