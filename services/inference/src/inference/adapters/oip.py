"""Reads and relabels OIP messages for versions: under whose name a model is asked, and how two answers differ."""

from typing import Any, Final, cast

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from servicekit.errors import Unavailable
from servicekit.landed import MessageT
from tritonclient.grpc import service_pb2 as oip

from inference.core.ports import BACKEND_FAILED
from inference.core.shadow import Difference

NUMBERS: Final = {
    "BOOL": np.dtype(np.bool_),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}


class OipLabels:
    """Relabels messages without reading them: of a protobuf field that is sent twice the last one counts."""

    def asked(self, request: MessageT, model: str) -> MessageT:
        """Return a request that names another model."""
        return cast("MessageT", request + _field(1, model.encode()))

    def answered(self, response: bytes, model: str, version: str) -> bytes:
        """Return a ModelInferResponse of another model and version."""
        return response + _names(model, version)

    def streamed(self, response: bytes, model: str, version: str) -> bytes:
        """Return a ModelStreamInferResponse of another model and version."""
        return response + _field(2, _names(model, version))

    def described(self, response: bytes, model: str) -> bytes:
        """Return a ModelMetadataResponse of another model."""
        return response + _field(1, model.encode())

    def configured(self, response: bytes, model: str) -> bytes:
        """Return a ModelConfigResponse of another model."""
        return response + _field(1, _field(1, model.encode()))


def compare(ours: bytes, theirs: bytes) -> Difference:
    """Return how two ModelInferResponses differ; raise Unavailable when one is none."""
    try:
        first, second = (_outputs(oip.ModelInferResponse.FromString(each)) for each in (ours, theirs))
    except (DecodeError, ValueError) as error:
        raise Unavailable("an answer is no ModelInferResponse", reason=BACKEND_FAILED) from error
    if first.keys() != second.keys():
        return Difference(same=False, detail=f"outputs {_listed(first)} against {_listed(second)}")
    worst, details = 0.0, []
    for name in first:
        largest, detail = _difference(first[name], second[name])
        worst = max(worst, largest or 0.0)
        if detail:
            details.append(f"{name}: {detail}")
    same = not details and worst == 0.0
    return Difference(same, None if details else worst, "; ".join(details))


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float | None, str]:
    """Return the largest difference of two outputs, or what keeps them from being subtracted."""
    if ours.shape != theirs.shape or ours.dtype.kind != theirs.dtype.kind:
        return None, f"{ours.dtype} {list(ours.shape)} against {theirs.dtype} {list(theirs.shape)}"
    if not ours.size or np.array_equal(ours, theirs):
        return 0.0, ""
    if ours.dtype.kind == "S":
        return None, "the texts differ"
    with np.errstate(invalid="ignore", over="ignore"):
        largest = float(np.max(np.abs(ours.astype(np.float64) - theirs.astype(np.float64))))
    return (largest, "") if np.isfinite(largest) else (None, "some differences are no finite numbers")


def _outputs(response: Any) -> dict[str, NDArray[Any]]:
    raw = list(response.raw_output_contents)
    if raw and len(raw) != len(response.outputs):
        raise ValueError("outputs and raw contents are not equally many")
    found = {}
    for index, output in enumerate(response.outputs):
        found[output.name] = _array(output, raw[index]) if raw else _typed(output)
    return found


def _array(output: Any, raw: bytes) -> NDArray[Any]:
    if output.datatype == "BF16":
        widened = np.frombuffer(raw, np.dtype("<u2")).astype(np.uint32) << 16
        return widened.view(np.float32).reshape(output.shape)
    dtype = NUMBERS.get(output.datatype)
    return np.array([raw], dtype=np.bytes_) if dtype is None else np.frombuffer(raw, dtype).reshape(output.shape)


def _typed(output: Any) -> NDArray[Any]:
    values = [list(field) for _, field in output.contents.ListFields()]
    return np.array(values[0] if values else []).reshape(output.shape)


def _listed(outputs: dict[str, NDArray[Any]]) -> str:
    return ", ".join(sorted(outputs)) or "none"


def _names(model: str, version: str) -> bytes:
    return _field(1, model.encode()) + _field(2, version.encode())


def _field(number: int, value: bytes) -> bytes:
    """Return a length-delimited protobuf field of number 1 to 15."""
    size, length = len(value), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value
