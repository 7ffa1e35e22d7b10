"""Golden cases: what a built model has to answer before it is trusted, and how far off it may be."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from model_repository.card import CardError, Tolerance

Run = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]]
DIGITS: Final = 6
BATCHES: Final[Sequence[tuple[str, int, Sequence[str]]]] = (
    (
        "two sentences, one padded",
        16,
        ("The dam holds back the river.", "Water turns the turbines of the power station below the dam."),
    ),
    (
        "one paragraph",
        48,
        ("A penstock is a pipe that leads water from a reservoir to a turbine; a gate at its head controls the flow.",),
    ),
)
"""Texts in batches of a width that any target takes: multiples of 16 tokens."""


def read_cases(path: Path, tolerance: Tolerance | None) -> str:
    """Return the cases of a file as JSON in one line, with the tolerance of a variant in each output.

    Nothing where there is no such file. Raises CardError.
    """
    if not path.exists():
        return ""
    try:
        cases: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CardError(f"{path}: {error}") from error
    for output in (output for case in cases["cases"] for output in case.get("outputs", ())):
        if tolerance is None and "atol" in output:
            continue
        if tolerance is None:
            raise CardError(f"{path.parent / 'model.yaml'}: tolerance: a variant with golden outputs needs one")
        output.update(tolerance.model_dump())
    return json.dumps(cases, separators=(",", ":"))


def encoder_cases(run: Run, tokenizer: Tokenizer) -> str:
    """Return the golden cases of an encoder that `run` encodes exactly, as JSON."""
    cases = [_case(name, width, texts, run, tokenizer) for name, width, texts in BATCHES]
    return json.dumps({"cases": cases}, separators=(",", ":")) + "\n"


def _case(name: str, width: int, texts: Sequence[str], run: Run, tokenizer: Tokenizer) -> dict[str, Any]:
    tokenizer.enable_padding(length=width)
    coded = tokenizer.encode_batch(list(texts))
    ids = np.array([one.ids for one in coded], np.int64)
    mask = np.array([one.attention_mask for one in coded], np.int64)
    if ids.shape[1] != width:
        raise CardError(f"golden case {name!r} has {ids.shape[1]} tokens and not {width}")
    return {
        "name": name,
        "inputs": [_tensor("input_ids", "INT64", ids), _tensor("attention_mask", "INT64", mask)],
        "outputs": [_tensor("embedding", "FP32", run(ids, mask))],
    }


def _tensor(name: str, datatype: str, values: npt.NDArray[Any]) -> dict[str, Any]:
    data = values.ravel().tolist()
    if values.dtype.kind == "f":
        data = [round(value, DIGITS) for value in data]
    return {"name": name, "datatype": datatype, "shape": list(values.shape), "data": data}
