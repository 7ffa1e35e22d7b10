"""Quantises the weights of an encoder to 8-bit integers."""

import numpy as np
import numpy.typing as npt

TABLE_LEVELS = 127
WEIGHT_LEVELS = 63
"""Seven bits: AVX2 adds two products of an unsigned and a signed byte in 16 bits, and 255 * 63 * 2 still fits.

With it a processor without VNNI computes the same vectors as one that has it.
"""


def quantise_columns(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return codes [in, out] and scales [out] of a weight [in, out]: weight = code * scale."""
    scales = _scales(weight, 0, WEIGHT_LEVELS)
    return np.rint(weight / scales).astype(np.int8), scales.reshape(-1)


def quantise_rows(table: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return codes [rows, columns] and scales [rows, 1] of a table: table = code * scale."""
    scales = _scales(table, 1, TABLE_LEVELS)
    return np.rint(table / scales).astype(np.int8), scales


def _scales(values: npt.NDArray[np.float32], axis: int, levels: int) -> npt.NDArray[np.float32]:
    largest = np.abs(values).max(axis=axis, keepdims=True)
    return np.where(largest > 0, largest / levels, 1).astype(np.float32)
