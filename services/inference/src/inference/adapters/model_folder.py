"""Looks at a model's files before a server is asked to load them, which may never come back from wrong ones."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from inference.adapters.triton import full_digest
from inference.core.residency_ports import LoadFailed

FILES: Final = {
    "python": "model.py",
    "onnxruntime": "model.onnx",
    "onnxruntime_onnx": "model.onnx",
    "tensorrt": "model.plan",
    "tensorrt_plan": "model.plan",
    "pytorch": "model.pt",
    "pytorch_libtorch": "model.pt",
    "vllm": "model.json",
}
"""What each backend or platform reads in a version's folder, unless the configuration names another file."""
NO_FILES: Final = "ensemble"
LARGEST_CONFIG_BYTES: Final = 4 * 1024 * 1024
ONNX_GRAPH: Final = 7
"""The field of onnx.ModelProto without which there is no model."""
LONGEST_VARINT: Final = 10
VARINT, FIXED64, SIZED, FIXED32 = 0, 1, 2, 5


class NotOnnxError(ValueError):
    """A file is no ONNX model; the message says why."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model repository that can be read from here."""

    path: Path

    async def check(self, model: str) -> None:
        """Raise LoadFailed, naming the file, when a server could not load the model from it."""
        await asyncio.to_thread(self._check, model)

    def declared(self, model: str) -> tuple[str, str]:
        """Return a model's version and digest as its config.pbtxt has them; both are empty where nothing tells them."""
        try:
            config = _config(model, self._folder_of(model) / "config.pbtxt")
        except LoadFailed:
            return "", ""  # said at the load, to whoever wants the model
        parameters = {name: value.string_value for name, value in config.parameters.items()}
        return parameters.get("version", ""), full_digest(parameters.get("digest", ""))

    def _folder_of(self, model: str) -> Path:
        if Path(model).name != model or model == "..":
            raise LoadFailed(f"{model!r} is no name of a model folder")
        folder = self.path / model
        if not folder.is_dir():
            raise LoadFailed(f"{model}: the model repository has no folder of that name")
        return folder

    def _check(self, model: str) -> None:
        folder = self._folder_of(model)
        config = _config(model, folder / "config.pbtxt")
        if config.platform == NO_FILES:
            return
        versions = _versions(model, folder, config)
        for version in versions:
            _check_version(model, folder / version, config)


def _config(model: str, path: Path) -> model_config_pb2.ModelConfig:
    try:
        if path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise LoadFailed(f"{model}: config.pbtxt is too large to be one")
        config = text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig(), allow_unknown_field=True)
    except OSError as error:
        raise LoadFailed(f"{model}: config.pbtxt cannot be read: {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise LoadFailed(f"{model}: config.pbtxt is wrong: {error}") from error
    if config.name not in ("", model):
        raise LoadFailed(f"{model}: config.pbtxt names another model, {config.name!r}")
    return config


def _versions(model: str, folder: Path, config: model_config_pb2.ModelConfig) -> list[str]:
    """Return the versions that would be loaded."""
    there = sorted((each.name for each in folder.iterdir() if each.is_dir() and each.name.isdecimal()), key=int)
    if config.version_policy.HasField("specific"):
        asked = [str(each) for each in config.version_policy.specific.versions]
        missing = [each for each in asked if each not in there]
        if missing:
            raise LoadFailed(f"{model}: config.pbtxt asks for version {missing[0]}, which has no folder")
        return asked
    if not there:
        raise LoadFailed(f"{model}: there is no folder of a version, such as 1")
    if config.version_policy.HasField("all"):
        return there
    return there[-max(1, config.version_policy.latest.num_versions) :]


def _check_version(model: str, folder: Path, config: model_config_pb2.ModelConfig) -> None:
    usual = FILES.get(config.backend) or FILES.get(config.platform)
    needed = config.default_model_filename or usual
    if needed and not (folder / needed).exists():
        raise LoadFailed(f"{model}: {folder.name}/{needed} is not there")
    for file in sorted(folder.glob("*.onnx")):
        wrong = _wrong_with_onnx(file)
        if wrong:
            raise LoadFailed(f"{model}: {folder.name}/{file.name} {wrong}")


def _wrong_with_onnx(path: Path) -> str:
    """Return what shows that a file is no ONNX model: its outermost fields have to fill it, with a graph among them."""
    try:
        with path.open("rb") as file:
            fields = _outer_fields(file, path.stat().st_size)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except NotOnnxError as error:
        return str(error)
    return "" if ONNX_GRAPH in fields else "is no ONNX model: it has no graph"


def _outer_fields(file: BinaryIO, size: int) -> set[int]:
    """Return the numbers of the outermost protobuf fields; raise NotOnnxError when they do not end with the file."""
    found: set[int] = set()
    while file.tell() < size:
        key = _varint(file)
        number, kind = key >> 3, key & 7
        if kind == SIZED:
            length = _varint(file)
            if length > size - file.tell():
                raise NotOnnxError("is cut off")
            file.seek(length, 1)
        elif kind == VARINT:
            _varint(file)
        elif kind in (FIXED64, FIXED32):
            file.seek(8 if kind == FIXED64 else 4, 1)
        else:
            raise NotOnnxError("is no ONNX model: its fields cannot be read")
        found.add(number)
    if file.tell() > size:
        raise NotOnnxError("is cut off")
    return found


def _varint(file: BinaryIO) -> int:
    value = 0
    for position in range(LONGEST_VARINT):
        byte = file.read(1)
        if not byte:
            raise NotOnnxError("is cut off")
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value
    raise NotOnnxError("is no ONNX model: its fields cannot be read")
