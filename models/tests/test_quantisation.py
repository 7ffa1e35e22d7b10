"""Quantised weights stay close to the originals and within their bits."""

import numpy as np
from model_repository.quantisation import quantise_columns, quantise_rows


def test_columns_come_back_within_half_a_step() -> None:
    weight = np.random.default_rng(1).normal(size=(48, 5)).astype(np.float32) * [0.01, 0.1, 1, 10, 100]
    codes, scales = quantise_columns(weight.astype(np.float32))
    assert (np.abs(codes * scales - weight) <= scales / 2 * 1.001).all()


def test_columns_leave_a_bit_so_that_avx2_cannot_overflow() -> None:
    codes, _ = quantise_columns(np.random.default_rng(2).normal(size=(64, 8)).astype(np.float32))
    assert 255 * 2 * int(np.abs(codes).max()) <= np.iinfo(np.int16).max


def test_rows_come_back_within_half_a_step_and_zeros_stay_zero() -> None:
    table = np.random.default_rng(3).normal(size=(6, 16)).astype(np.float32)
    table[2] = 0
    codes, scales = quantise_rows(table)
    assert (np.abs(codes * scales - table) <= scales / 2 * 1.001).all()
    assert not codes[2].any()
