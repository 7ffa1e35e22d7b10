"""The builder makes what the cards say, once, and never half."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from model_repository.card import CardError
from model_repository.repository import BuiltModel, build_repository
from tokenizers import Tokenizer

AddCard = Callable[..., Path]


def build(tmp_path: Path, target: str = "cpu") -> dict[str, BuiltModel]:
    return {
        model.name: model for model in build_repository(tmp_path / "models", target, tmp_path / "state" / "repository")
    }


def test_encoder_states_its_identity_in_manifest_and_config(repository: Path) -> None:
    manifest = json.loads((repository / "minilm-l6" / "manifest.json").read_text("utf-8"))
    assert (manifest["dimensions"], manifest["pooling"], manifest["max_tokens"]) == (384, "mean", 256)
    config = (repository / "minilm-l6" / "config.pbtxt").read_text("utf-8")
    assert f'key: "digest" value {{ string_value: "{manifest["digest"]}" }}' in config


def test_variants_and_targets_have_different_digests(repository: Path, gpu_repository: Path) -> None:
    manifests = [repository / "minilm-l6", repository / "minilm-l6-fp32", gpu_repository / "minilm-l6"]
    assert len({json.loads((folder / "manifest.json").read_text("utf-8"))["digest"] for folder in manifests}) == 3


def test_gpu_files_replace_the_cpu_ones(gpu_repository: Path) -> None:
    assert [path.name for path in (gpu_repository / "minilm-l6" / "1").iterdir()] == ["model.onnx"]
    assert 'backend: "onnxruntime"' in (gpu_repository / "minilm-l6" / "config.pbtxt").read_text("utf-8")


def test_tokenizer_neither_pads_nor_cuts(repository: Path) -> None:
    tokenizer = Tokenizer.from_file(str(repository / "minilm-l6" / "tokenizer.json"))
    assert len(tokenizer.encode("water").ids) == 3
    assert len(tokenizer.encode("water " * 700).ids) == 702


def test_python_model_is_its_files_and_the_tokenizer_it_needs(
    add_card: AddCard, tmp_path: Path, repository: Path
) -> None:
    folder = add_card("reader", needs={"tokenizer": "lender"})
    (folder / "triton" / "words.py").write_text("# words\n", "utf-8")
    lender = tmp_path / "state" / "repository" / "lender"
    lender.mkdir(parents=True)
    (lender / "tokenizer.json").write_text("{}", "utf-8")
    build(tmp_path)
    version = tmp_path / "state" / "repository" / "reader" / "1"
    assert sorted(path.name for path in version.iterdir()) == ["model.py", "tokenizer.json", "words.py"]


def test_a_second_build_makes_nothing(add_card: AddCard, tmp_path: Path) -> None:
    add_card("reader")
    assert build(tmp_path)["reader"].fresh
    assert not build(tmp_path)["reader"].fresh


def test_a_changed_file_is_built_anew_and_changes_the_digest(add_card: AddCard, tmp_path: Path) -> None:
    folder = add_card("reader")
    before = build(tmp_path)["reader"]
    (folder / "triton" / "model.py").write_text("# another model\n", "utf-8")
    after = build(tmp_path)["reader"]
    assert after.fresh
    assert after.digest != before.digest


def test_a_failed_build_leaves_the_old_model_and_no_rest(add_card: AddCard, tmp_path: Path) -> None:
    folder = add_card("reader")
    old = build(tmp_path)["reader"]
    (folder / "triton" / "config.pbtxt").unlink()
    with pytest.raises(FileNotFoundError):
        build(tmp_path)
    state = tmp_path / "state"
    assert [path.name for path in state.iterdir()] == ["repository"]
    assert json.loads((state / "repository" / "reader" / "manifest.json").read_text("utf-8"))["digest"] == old.digest


def test_a_need_that_nobody_meets_is_named(add_card: AddCard, tmp_path: Path) -> None:
    add_card("reader", needs={"tokenizer": "nobody"})
    with pytest.raises(CardError, match=r"reader: needs\.tokenizer: no model nobody"):
        build(tmp_path)
