"""Golden cases travel with each built model, and each built graph passes its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from model_repository.card import CardError, Tolerance
from model_repository.golden import encoder_cases, read_cases
from model_repository.repository import build_repository
from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2

MODELS = Path(__file__).parents[1]
TOLERANCE = Tolerance(atol=0.5, min_cosine=0.9)


def cases(folder: Path) -> list[dict[str, Any]]:
    """Return the golden cases in a built model's folder."""
    read: list[dict[str, Any]] = json.loads((folder / "golden.json").read_text("utf-8"))["cases"]
    return read


def array(tensor: dict[str, Any]) -> np.ndarray:
    return np.array(tensor["data"]).reshape(tensor["shape"])


def distances(folder: Path, golden: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return for each case how far the graph is off: the largest difference, and the least cosine."""
    session = ort.InferenceSession(str(folder / "1/model.onnx"), providers=["CPUExecutionProvider"])
    found = []
    for case in golden:
        feed = {tensor["name"]: array(tensor).astype(np.int64) for tensor in case["inputs"]}
        (answered,) = session.run(["embedding"], feed)
        expected = array(case["outputs"][0])
        cosine = (answered * expected).sum(-1) / np.linalg.norm(answered, axis=-1) / np.linalg.norm(expected, axis=-1)
        found.append((float(np.abs(answered - expected).max()), float(cosine.min())))
    return found


@pytest.mark.parametrize("name", ["minilm-l6", "minilm-l6-fp32"])
def test_a_built_encoder_passes_its_own_cases_with_room_to_spare(repository: Path, name: str) -> None:
    golden = cases(repository / name)
    tolerance = golden[0]["outputs"][0]
    for difference, cosine in distances(repository / name, golden):
        assert difference <= 0.75 * tolerance["atol"]
        assert 1 - cosine <= 0.75 * (1 - tolerance["min_cosine"])


def test_the_graph_for_a_gpu_passes_too(gpu_repository: Path) -> None:
    for difference, cosine in distances(gpu_repository / "minilm-l6", cases(gpu_repository / "minilm-l6")):
        assert (difference < 0.001, cosine > 0.9999) == (True, True)


def test_the_exact_variants_cases_tell_int8_from_it(repository: Path) -> None:
    golden = cases(repository / "minilm-l6-fp32")
    tolerance = golden[0]["outputs"][0]
    assert any(
        difference > tolerance["atol"] and cosine < tolerance["min_cosine"]
        for difference, cosine in distances(repository / "minilm-l6", golden)
    )


def test_triton_hands_the_cases_out_as_a_parameter(repository: Path) -> None:
    config = model_config_pb2.ModelConfig()
    text_format.Parse((repository / "minilm-l6/config.pbtxt").read_text("utf-8"), config)
    assert json.loads(config.parameters["golden"].string_value)["cases"] == cases(repository / "minilm-l6")


def test_quotes_and_backslashes_survive_the_configuration(add_card: Callable[..., Path], tmp_path: Path) -> None:
    folder = add_card("reader")
    golden = {"cases": [{"messages": [{"role": "user", "content": 'a "b" \\ \n é'}], "contains": ["x"]}]}
    (folder / "golden.json").write_text(json.dumps(golden), "utf-8")
    list(build_repository(tmp_path / "models", "cpu", tmp_path / "state/repository"))
    config = model_config_pb2.ModelConfig()
    text_format.Parse((tmp_path / "state/repository/reader/config.pbtxt").read_text("utf-8"), config)
    assert json.loads(config.parameters["golden"].string_value) == golden


def test_new_cases_are_a_new_build_of_the_same_model(add_card: Callable[..., Path], tmp_path: Path) -> None:
    folder = add_card("reader")
    [before] = build_repository(tmp_path / "models", "cpu", tmp_path / "state/repository")
    (folder / "golden.json").write_text('{"cases": []}', "utf-8")
    [after] = build_repository(tmp_path / "models", "cpu", tmp_path / "state/repository")
    assert (after.fresh, after.digest) == (True, before.digest)


def test_cases_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text("{", "utf-8")
    with pytest.raises(CardError, match=r"golden\.json"):
        read_cases(path, TOLERANCE)
    path.write_text('{"cases": [{"outputs": [{"name": "embedding"}]}]}', "utf-8")
    with pytest.raises(CardError, match="tolerance"):
        read_cases(path, None)
    assert json.loads(read_cases(path, TOLERANCE))["cases"][0]["outputs"][0]["min_cosine"] == 0.9
    assert read_cases(tmp_path / "none.json", None) == ""


def test_the_committed_vectors_are_those_of_the_published_weights(repository: Path) -> None:
    session = ort.InferenceSession(str(repository / "minilm-l6-fp32/1/model.onnx"), providers=["CPUExecutionProvider"])

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        encoded: np.ndarray = session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
        return encoded

    tokenizer = Tokenizer.from_file(str(repository / "minilm-l6/tokenizer.json"))
    fresh = json.loads(encoder_cases(run, tokenizer))["cases"]
    committed = json.loads((MODELS / "minilm-l6/golden.json").read_text("utf-8"))["cases"]
    for one, other in zip(fresh, committed, strict=True):
        assert one["inputs"] == other["inputs"]
        assert np.allclose(array(one["outputs"][0]), array(other["outputs"][0]), atol=1e-4)
