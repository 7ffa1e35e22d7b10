"""Turns tensors written as JSON into OIP messages and back: `{"name": "x", "datatype": "FP32", "shape": [2], ...}`."""

import struct
import sys
from array import array
from typing import Any, Final

from tritonclient.grpc import service_pb2 as oip

FIELDS: Final = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
}
"""Where a request holds values of a type, and what one is in a raw answer (struct's letters)."""


class BadRow(ValueError):
    """A row that is no request; the message says what is wrong with it."""


def write_request(model: str, row: Any) -> bytes:
    """Return the ModelInferRequest of `{"inputs": [...]}`; raise BadRow."""
    if not isinstance(row, dict) or not isinstance(row.get("inputs"), list) or not row["inputs"]:
        raise BadRow('a row is {"inputs": [{"name": ..., "datatype": ..., "shape": [...], "data": [...]}]}')
    request = oip.ModelInferRequest(model_name=model)
    for given in row["inputs"]:
        try:
            added = request.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
            _fill(added, given["datatype"], list(_flat(given["data"])))
        except (KeyError, TypeError, ValueError) as error:
            raise BadRow(f"an input cannot be read: {type(error).__name__}: {error}") from error
    written: bytes = request.SerializeToString()
    return written


def read_response(response: bytes) -> list[dict[str, Any]]:
    """Return the outputs of a ModelInferResponse; values of a type that JSON cannot show are left out."""
    answer = oip.ModelInferResponse.FromString(response)
    raw = list(answer.raw_output_contents)
    return [
        {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
        | _values(each, raw[index] if raw else None)
        for index, each in enumerate(answer.outputs)
    ]


def _fill(tensor: Any, datatype: str, values: list[Any]) -> None:
    if datatype == "BYTES":
        tensor.contents.bytes_contents.extend(value.encode() for value in values)
    elif datatype in FIELDS:
        getattr(tensor.contents, FIELDS[datatype][0]).extend(values)
    else:
        raise ValueError(f"{datatype} cannot be written as JSON")


def _flat(values: Any) -> Any:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def _values(tensor: Any, raw: bytes | None) -> dict[str, Any]:
    if raw is None:
        typed = [list(values) for _, values in tensor.contents.ListFields()]
        return {"data": _shown(typed[0]) if typed else []}
    if tensor.datatype == "BYTES":
        return {"data": _shown(_texts(raw))}
    if tensor.datatype == "BOOL":
        return {"data": [bool(byte) for byte in raw]}
    if tensor.datatype not in FIELDS:
        return {}
    numbers = array(FIELDS[tensor.datatype][1])
    numbers.frombytes(raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return {"data": numbers.tolist()}


def _texts(raw: bytes) -> list[bytes]:
    found, position = [], 0
    while position < len(raw):
        (size,) = struct.unpack_from("<I", raw, position)
        found.append(raw[position + 4 : position + 4 + size])
        position += 4 + size
    return found


def _shown(values: list[Any]) -> list[Any]:
    return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
