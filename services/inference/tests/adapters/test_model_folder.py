"""The look at a model's files before a load: what a server would choke on is named."""

import shutil
from pathlib import Path

import pytest
from inference.adapters.model_folder import ModelFolder
from inference.core.residency_ports import LoadFailed
from inference_small_model_fakes import write_model

BUILT = Path(__file__).resolve().parents[4] / ".penstock/models"
ONNX_CONFIG = 'backend: "onnxruntime"\n'
ONNX = b"\x08\x08" + b"\x3a\x03abc" + b"\x42\x02\x10\x0d"
"""ir_version, a graph of three bytes, an opset: as much of a model as its outermost fields show."""


def onnx_model(repository: Path, content: bytes | None, config: str = ONNX_CONFIG) -> ModelFolder:
    (repository / "m/1").mkdir(parents=True)
    (repository / "m/config.pbtxt").write_text(config, "utf-8")
    if content is not None:
        (repository / "m/1/model.onnx").write_bytes(content)
    return ModelFolder(repository)


async def test_what_can_be_loaded_passes(tmp_path: Path) -> None:
    await onnx_model(tmp_path, ONNX).check("m")
    write_model(tmp_path, "python")
    await ModelFolder(tmp_path).check("python")
    (tmp_path / "together").mkdir()
    (tmp_path / "together/config.pbtxt").write_text('platform: "ensemble"', "utf-8")
    await ModelFolder(tmp_path).check("together")


async def test_the_models_of_this_repository_pass() -> None:
    for model in ("minilm-l6", "minilm-l6-fp32", "extractive-reader"):
        await ModelFolder(BUILT).check(model)


def test_version_and_digest_are_known_before_the_load(tmp_path: Path) -> None:
    version, digest = ModelFolder(BUILT).declared("minilm-l6")
    assert version
    assert digest.startswith("sha256:")
    write_model(tmp_path, "bare")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong/config.pbtxt").write_text("backend: {", "utf-8")
    for model in ("bare", "wrong", "missing", "../bare"):
        assert ModelFolder(tmp_path).declared(model) == ("", "")


async def test_a_built_model_that_is_cut_off_does_not(tmp_path: Path) -> None:
    shutil.copytree(BUILT / "minilm-l6", tmp_path / "minilm-l6")
    graph = tmp_path / "minilm-l6/1/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1000])
    with pytest.raises(LoadFailed, match=r"minilm-l6: 1/model\.onnx is cut off"):
        await ModelFolder(tmp_path).check("minilm-l6")


WRONG = [
    (None, r"m: 1/model\.onnx is not there"),
    (b"", r"m: 1/model\.onnx is no ONNX model: it has no graph"),
    (b"<html>not found</html>", r"1/model\.onnx is "),
    (b"\x08\x08", "it has no graph"),
    (ONNX + b"\x42\x7f", "is cut off"),
    (ONNX + b"\x0b", "its fields cannot be read"),
    (b"\xff" * 40, "its fields cannot be read"),
    (b"\x3a" + b"\xff" * 9 + b"\x7f", "is cut off"),
]


@pytest.mark.parametrize(("content", "told"), WRONG)
async def test_a_wrong_onnx_file_is_named(tmp_path: Path, content: bytes | None, told: str) -> None:
    with pytest.raises(LoadFailed, match=told) as caught:
        await onnx_model(tmp_path, content).check("m")
    assert caught.value.reason == "not_loaded"
    assert str(tmp_path) not in caught.value.message


CONFIGS = [
    ("backend: ", r"m: config\.pbtxt is wrong"),
    ("\xe4".encode("latin-1").decode("latin-1") + "\x00", r"config\.pbtxt is wrong"),
    (ONNX_CONFIG + 'name: "other"', "names another model, 'other'"),
    (ONNX_CONFIG + "version_policy { specific { versions: [ 1, 4 ] } }", "version 4, which has no folder"),
    (ONNX_CONFIG + 'default_model_filename: "big.onnx"', r"m: 1/big\.onnx is not there"),
    ('backend: "vllm"', r"1/model\.json is not there"),
]


@pytest.mark.parametrize(("config", "told"), CONFIGS)
async def test_a_wrong_configuration_is_named(tmp_path: Path, config: str, told: str) -> None:
    with pytest.raises(LoadFailed, match=told):
        await onnx_model(tmp_path, ONNX, config).check("m")


async def test_only_the_versions_that_would_be_loaded_are_looked_at(tmp_path: Path) -> None:
    folder = onnx_model(tmp_path, b"broken")
    (tmp_path / "m/2").mkdir()
    (tmp_path / "m/2/model.onnx").write_bytes(ONNX)
    await folder.check("m")
    (tmp_path / "m/config.pbtxt").write_text(ONNX_CONFIG + "version_policy { all { } }", "utf-8")
    with pytest.raises(LoadFailed):
        await folder.check("m")


async def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    with pytest.raises(LoadFailed, match="has no folder"):
        await folder.check("m")
    (tmp_path / "m").mkdir()
    with pytest.raises(LoadFailed, match=r"config\.pbtxt cannot be read"):
        await folder.check("m")
    (tmp_path / "m/config.pbtxt").write_text(ONNX_CONFIG, "utf-8")
    with pytest.raises(LoadFailed, match="no folder of a version"):
        await folder.check("m")
    for name in ("../m", "m/1", ".."):
        with pytest.raises(LoadFailed, match="no name of a model folder"):
            await folder.check(name)
