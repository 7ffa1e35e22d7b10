"""Calibration finds the ranges of an encoder's activations, and the file gives them back."""

from pathlib import Path

import numpy as np
import pytest
from model_repository.activations import CAPS, LIMITS, Span, calibrate, read_spans, write_spans
from model_repository.card import CardError
from model_repository.repository import build_repository
from tokenizers import Tokenizer

CARD = Path(__file__).parents[1] / "minilm-l6"


def test_codes_cover_the_span_and_zero_has_its_own() -> None:
    span = Span(-0.2, 8.0, {})
    codes = np.rint(np.array([-0.2, 0, 8]) / span.step) + span.zero
    assert codes.tolist() == [0, span.zero, 255]


def test_outliers_alone_are_divided() -> None:
    assert Span(-1, 1, {2: 6.5}).factors(4).tolist() == [1, 1, 6.5, 1]


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    spans = {"a": Span(-1.5, 2.5, {3: 1.25, 99: 7.0}), "b": Span(-0.2, 8.0, {})}
    write_spans(tmp_path / "activations.json", spans, 'the "test"')
    assert read_spans(tmp_path / "activations.json") == spans


def test_calibration_covers_every_layer_within_its_limits(repository: Path) -> None:
    tokenizer = Tokenizer.from_file(str(repository / "minilm-l6" / "tokenizer.json"))
    graph = repository / "minilm-l6-fp32" / "1" / "model.onnx"
    found = calibrate(graph, tokenizer, ["The gate opens at noon.", "Who maintains the pump?"])
    kept = read_spans(CARD / "activations.json")
    assert list(found) == list(kept)
    for name, span in (found | kept).items():
        assert span.low < 0 < span.high <= {**LIMITS, **CAPS}[name.rpartition(".")[2]] * 1.2
        assert all(factor >= 1 for factor in span.outliers.values())


def test_an_int8_encoder_without_calibration_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "minilm-l6"
    folder.mkdir(parents=True)
    for name in ("model.yaml", "triton"):
        (folder / name).symlink_to(CARD / name)
    with pytest.raises(CardError, match=r"activations\.json is missing"):
        list(build_repository(tmp_path / "models", "cpu", tmp_path / "state" / "repository"))
