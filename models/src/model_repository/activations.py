"""Measures and keeps the ranges that a calibrated int8 encoder gives to its activations."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from tokenizers import Tokenizer

LIMITS = {"LayerNorm": 4.5, "context": 16.0}
"""A channel whose peak is above this is divided down to it, and its weights take the factor back.

A few channels of a BERT reach ten times the size of the others, which would lose their bits to the one scale for all
(Xiao et al. 2023, SmoothQuant; here for the outliers alone).
"""
CAPS = {"gelu": 8.0}
"""What is above this is cut: it occurs in one channel at separators, and pooling hardly sees it."""
MARGIN = 1.1
"""Other texts may go this much further than the calibrating ones before they are cut."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Span:
    """Least and greatest value of one activation, after the channels in `outliers` were divided by their factors."""

    low: float
    high: float
    outliers: Mapping[int, float]

    @property
    def step(self) -> float:
        """Size of one of the 255 steps of a uint8."""
        return (self.high - self.low) / 255

    @property
    def zero(self) -> int:
        """The code that stands for 0."""
        return round(-self.low / self.step)

    def factors(self, channels: int) -> Floats:
        """Return the divisor of each channel."""
        divisors = np.ones(channels, np.float32)
        for channel, factor in self.outliers.items():
            divisors[channel] = factor
        return divisors


Spans = Mapping[str, Span]
"""By the name of the activation in the graph."""


def read_spans(path: Path) -> dict[str, Span]:
    """Return the spans of a file that `calibrate` wrote."""
    spans = json.loads(path.read_text("utf-8"))["spans"]
    return {
        name: Span(low, high, {int(channel): factor for channel, factor in outliers.items()})
        for name, (low, high, outliers) in spans.items()
    }


def write_spans(path: Path, spans: Spans, origin: str) -> None:
    """Write one line per activation: low, high, outliers; and how they came about."""
    lines = (f'    "{name}": {json.dumps([span.low, span.high, span.outliers])}' for name, span in spans.items())
    head = f'{{\n  "origin": {json.dumps(origin)},\n  "spans": {{\n'
    path.write_text(head + ",\n".join(lines) + "\n  }\n}\n", "utf-8")


def calibrate(graph: Path, tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, Span]:
    """Return the span of every activation that the fp32 encoder at `graph` multiplies with weights, over `texts`."""
    model = onnx.load(graph)
    names = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == "MatMul"))
    names = [name for name in names if name.rpartition(".")[2] in LIMITS | CAPS]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    low, high = ({name: np.zeros(1, np.float32) for name in names} for _ in range(2))
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        found = session.run(names, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        for name, (tokens,) in zip(names, found, strict=True):
            low[name] = np.minimum(low[name], tokens.min(axis=0))
            high[name] = np.maximum(high[name], tokens.max(axis=0))
    return {name: _span(name.rpartition(".")[2], low[name], high[name]) for name in names}


def _span(kind: str, low: Floats, high: Floats) -> Span:
    limit = LIMITS.get(kind, np.inf)
    peaks = np.maximum(-low, high)
    outliers = {int(channel): round(float(peaks[channel] / limit), 2) for channel in np.flatnonzero(peaks > limit)}
    factors = Span(0, 0, outliers).factors(len(peaks))
    least, greatest = float((low / factors).min()), float((high / factors).max())
    return Span(round(least * MARGIN, 3), round(min(greatest * MARGIN, CAPS.get(kind, np.inf)), 3), outliers)
