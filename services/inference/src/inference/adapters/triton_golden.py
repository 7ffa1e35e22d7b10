"""Reads the golden cases of a Triton model and checks them against the model's signature."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from tritonclient.grpc import model_config_pb2

from inference.core.conversation import Turn
from inference.core.golden_cases import Array, Expected, Golden, TensorCase, TextCase

MOST_CASES: Final = 64
LARGEST_CHARACTERS: Final = 4 * 1024 * 1024
DTYPES: Final[Mapping[str, Any]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""OIP's names and numpy's types; BYTES can be put in but not expected, and BF16 has no golden tensors."""
TEXTS: Final = "BYTES"
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]


class GoldenInvalid(ValueError):
    """The golden cases cannot be read, or do not fit the model; the message has the path of the field."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Tensor(_Part):
    name: str = Field(min_length=1)
    datatype: Datatype
    shape: list[Annotated[int, Field(ge=0, le=1_000_000)]] = Field(max_length=16)
    data: list[float | int | bool] | list[str]

    @model_validator(mode="after")
    def _full(self) -> Self:
        if len(self.data) != math.prod(self.shape):
            raise PydanticCustomError("size", "the data do not fill the shape")
        if self.data and isinstance(self.data[0], str) is not (self.datatype == TEXTS):
            raise PydanticCustomError("datatype", "BYTES, and nothing else, are written as texts")
        exact = self.datatype.startswith(("INT", "UINT", "BOOL"))
        try:
            fits = not exact or np.array_equal(self.array().ravel(), np.array(self.data))
        except (OverflowError, ValueError, TypeError):
            fits = False
        if not fits:
            raise PydanticCustomError("datatype", "the data do not fit the datatype")
        return self

    def array(self) -> Array:
        """Return the values; texts as an array of bytes objects."""
        if self.datatype == TEXTS:
            texts = np.empty(len(self.data), np.object_)
            texts[:] = [str(text).encode() for text in self.data]
            return texts.reshape(self.shape)
        with np.errstate(all="ignore"):
            return np.array(self.data).astype(DTYPES[self.datatype]).reshape(self.shape)


class _Output(_Tensor):
    atol: float = Field(0.0, ge=0, allow_inf_nan=False)
    rtol: float = Field(0.0, ge=0, allow_inf_nan=False)
    min_cosine: float = Field(-1.0, ge=-1, le=1)

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        if self.datatype == TEXTS:
            raise PydanticCustomError("datatype", "an output of BYTES cannot be expected")
        return self

    def expected(self) -> Expected:
        return Expected(self.array(), self.atol, self.rtol, self.min_cosine)


class _Message(_Part):
    role: Literal["system", "user", "assistant"]
    content: str


class _Case(_Part):
    name: str = Field("", max_length=100)
    inputs: list[_Tensor] = []
    outputs: list[_Output] = []
    messages: list[_Message] = []
    max_tokens: int = Field(64, ge=1, le=4096)
    text: str | None = None
    contains: list[Annotated[str, Field(min_length=1)]] = []

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.messages) == bool(self.inputs):
            raise PydanticCustomError("kind", "a case has either inputs or messages")
        if self.inputs and (not self.outputs or self.text is not None or self.contains):
            raise PydanticCustomError("outputs", "a case with inputs expects outputs, and no text")
        if self.messages and (self.outputs or (self.text is None and not self.contains)):
            raise PydanticCustomError("text", "a case with messages expects text or contains, and no outputs")
        return self

    def case(self, index: int) -> TensorCase | TextCase:
        name = self.name or f"case {index}"
        if self.messages:
            turns = [Turn(each.role, each.content) for each in self.messages]
            return TextCase(name, turns, self.max_tokens, self.text, self.contains)
        return TensorCase(
            name,
            {each.name: each.array() for each in self.inputs},
            {each.name: each.expected() for each in self.outputs},
        )


class _File(_Part):
    cases: list[_Case] = Field(min_length=1, max_length=MOST_CASES)


def parse_golden(text: str) -> _File:
    """Return golden cases as they stand in a file; raise GoldenInvalid."""
    if len(text) > LARGEST_CHARACTERS:
        raise GoldenInvalid(f"golden cases have at most {LARGEST_CHARACTERS} characters")
    try:
        return _File.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise GoldenInvalid(f"{where.removeprefix('.') or 'golden'}: {first['msg']}"[:500]) from error


def read_golden(text: str, config: Any, *, writes: bool) -> Golden:
    """Return the cases of a model with this ModelConfig, which `writes` text or takes tensors; raise GoldenInvalid."""
    cases = parse_golden(text).cases
    for index, case in enumerate(cases):
        for mistake in _mistakes(case, config, writes=writes):
            raise GoldenInvalid(f"cases[{index}]{mistake}")
    return Golden([case.case(index) for index, case in enumerate(cases)])


def _mistakes(case: _Case, config: Any, *, writes: bool) -> Iterator[str]:
    """Yield where a case does not fit the model."""
    if case.messages:
        if not writes:
            yield ".messages: the model does not write text"
        return
    if writes or config.model_transaction_policy.decoupled:
        yield ".inputs: a model with many responses is asked with messages"
    if config.max_batch_size and len({each.shape[0] if each.shape else 0 for each in case.inputs}) > 1:
        yield ".inputs: their batch sizes differ"
    for index, tensor in enumerate(case.inputs):
        yield from _unlike(f".inputs[{index}]", tensor, config.input, config.max_batch_size)
    for index, tensor in enumerate(case.outputs):
        yield from _unlike(f".outputs[{index}]", tensor, config.output, config.max_batch_size)
    given = {each.name for each in case.inputs}
    for missing in [each.name for each in config.input if each.name not in given and not each.optional]:
        yield f".inputs: the model's input {missing!r} is missing"


def _unlike(path: str, tensor: _Tensor, declared: Any, max_batch: int) -> Iterator[str]:
    """Yield how a tensor differs from what the model declares under its name."""
    found = next((each for each in declared if each.name == tensor.name), None)
    if found is None:
        yield f"{path}.name: the model has no {tensor.name[:100]!r}"
        return
    datatype = model_config_pb2.DataType.Name(found.data_type).removeprefix("TYPE_").replace("STRING", TEXTS)
    if datatype != tensor.datatype:
        yield f"{path}.datatype: the model has {datatype} there"
    dims = ([-1] if max_batch else []) + list(found.dims)
    fits = len(dims) == len(tensor.shape) and all(
        dim in (-1, size) for dim, size in zip(dims, tensor.shape, strict=True)
    )
    if not fits:
        yield f"{path}.shape: the model has {dims} there"
    elif max_batch and not 1 <= tensor.shape[0] <= max_batch:
        yield f"{path}.shape: a batch has 1 to {max_batch} rows"
