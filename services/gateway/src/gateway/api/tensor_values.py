"""Tensors as JSON writes them and as OIP's bytes hold them: little-endian, row-major, each value checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
from servicekit.errors import InvalidInput

MOST_DIMENSIONS: Final = 16
LENGTH_BYTES: Final = 4
"""Each element of a BYTES tensor is preceded by its length."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """A datatype of OIP: bytes of an element (0: they differ), numpy's name, and what JSON may say (None: nothing)."""

    size: int
    dtype: str = ""
    kinds: frozenset[type] | None = None


INTEGER, NUMBER = frozenset({int}), frozenset({int, float})
DATATYPES: Final = {
    "BOOL": Datatype(1, "?", frozenset({bool})),
    "INT8": Datatype(1, "<i1", INTEGER),
    "INT16": Datatype(2, "<i2", INTEGER),
    "INT32": Datatype(4, "<i4", INTEGER),
    "INT64": Datatype(8, "<i8", INTEGER),
    "UINT8": Datatype(1, "<u1", INTEGER),
    "UINT16": Datatype(2, "<u2", INTEGER),
    "UINT32": Datatype(4, "<u4", INTEGER),
    "UINT64": Datatype(8, "<u8", INTEGER),
    "FP16": Datatype(2),
    "BF16": Datatype(2),
    "FP32": Datatype(4, "<f4", NUMBER),
    "FP64": Datatype(8, "<f8", NUMBER),
    "BYTES": Datatype(0, "", frozenset({str})),
}


def datatype_of(name: Any, where: str) -> Datatype:
    """Return a datatype by its name; raise InvalidInput."""
    found = DATATYPES.get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidInput(f"{where} is none of {', '.join(DATATYPES)}", field=where)
    return found


def shape_of(value: Any, where: str) -> list[int]:
    """Return a shape; raise InvalidInput unless it is a list of whole numbers, none negative."""
    if not isinstance(value, list) or len(value) > MOST_DIMENSIONS:
        raise InvalidInput(f"{where} has to be a list of at most {MOST_DIMENSIONS} numbers", field=where)
    for place, size in enumerate(value):
        if type(size) is not int or not 0 <= size < 2**63:
            raise InvalidInput("a dimension is a whole number, not negative", field=f"{where}[{place}]")
    return value


def pack(values: Any, name: str, shape: Sequence[int], where: str) -> bytes:
    """Return JSON values, nested as the shape says or flat, as the tensor's bytes; raise InvalidInput."""
    datatype = DATATYPES[name]
    if datatype.kinds is None:
        raise InvalidInput(f"{name} has no form in JSON; send it as binary data", field=where)
    flat = _flat(values, shape, where)
    if len(flat) != prod(shape):
        raise InvalidInput(f"the shape holds {prod(shape)} values and {len(flat)} were sent", field=where)
    if not set(map(type, flat)) <= datatype.kinds:
        place = next(place for place, value in enumerate(flat) if type(value) not in datatype.kinds)
        raise InvalidInput(f"value {place} is not of {name}", field=where)
    if not datatype.size:
        return _pack_texts(flat, where)
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, datatype.dtype)
    except OverflowError as error:
        raise InvalidInput(f"a value does not fit into {name}", field=where) from error
    if datatype.kinds is NUMBER and not np.isfinite(array).all():
        raise InvalidInput(f"a value does not fit into {name}", field=where)
    return array.tobytes()


def unpack(raw: memoryview, name: str) -> Any:
    """Return a tensor's bytes as what orjson writes flat; raise InvalidInput for what has no form in JSON."""
    datatype = DATATYPES.get(name)
    if datatype is None or datatype.kinds is None:
        raise InvalidInput(f"an output of {name} has no form in JSON; ask for binary data", reason="binary_only")
    return np.frombuffer(raw, datatype.dtype) if datatype.size else _unpack_texts(raw)


def _flat(values: Any, shape: Sequence[int], where: str) -> list[Any]:
    if not isinstance(values, list):
        raise InvalidInput(f"{where} has to be a list", field=where)
    depth = 0
    while values and type(values[0]) is list:
        depth += 1
        inner = shape[depth] if depth < len(shape) else -1
        outer = prod(shape[:depth])
        if len(values) != outer or any(type(each) is not list or len(each) != inner for each in values):
            raise InvalidInput("the lists are not nested as the shape says", field=where)
        values = list(chain.from_iterable(values))
    flat: list[Any] = values
    return flat


def _pack_texts(texts: list[str], where: str) -> bytes:
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise InvalidInput("a text is not valid Unicode", field=where) from error
    return b"".join(chain.from_iterable((len(text).to_bytes(LENGTH_BYTES, "little"), text) for text in encoded))


def _unpack_texts(raw: memoryview) -> list[str]:
    texts: list[str] = []
    position = 0
    while position < len(raw):
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(raw[position:start], "little")
        try:
            texts.append(str(raw[start:position], "utf-8"))
        except UnicodeDecodeError as error:
            raise InvalidInput("an output is not text; ask for binary data", reason="binary_only") from error
    return texts
