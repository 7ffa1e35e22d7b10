"""The encoder's packing: every text once, little padding, wrong requests refused."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[1] / "minilm-l6" / "triton" / "batching.py"
SPEC = importlib.util.spec_from_file_location("minilm_batching", PATH)
batching = sys.modules["minilm_batching"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(batching)


def texts(*lengths: int, width: int | None = None):
    """Return a request whose row r has lengths[r] tokens of value 10 + length."""
    ids = np.zeros((len(lengths), width or max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = 10 + length
    return batching.Texts.check(ids, (ids > 0).astype(np.int64), vocabulary=1000, positions=512)


def test_each_text_is_in_one_run_with_its_own_tokens() -> None:
    requests = [texts(3, 9, width=20), texts(5), texts(3, 3, 7)]
    seen = []
    for run in batching.plan_runs(requests, tokens_per_run=16):
        for (request, row), ids, mask in zip(run.origin, run.ids, run.mask, strict=True):
            length = requests[request].lengths[row]
            assert mask.sum() == length
            assert (ids[:length] == 10 + length).all()
            seen.append((request, row))
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]


def test_runs_keep_to_their_size_and_shed_the_callers_padding() -> None:
    runs = list(batching.plan_runs([texts(*[4] * 10, 60, width=64)], tokens_per_run=24))
    assert [run.ids.shape for run in runs] == [(6, 4), (4, 4), (1, 60)]


def test_unlike_lengths_run_apart_when_their_padding_is_dearer_than_a_run() -> None:
    runs = list(batching.plan_runs([texts(5, 6, 20, 21, 6, 22), texts(60)], tokens_per_run=2048))
    assert [run.ids.shape for run in runs] == [(3, 6), (3, 22), (1, 60)]


def test_a_run_is_not_begun_for_a_token_or_two_of_padding() -> None:
    (run,) = batching.plan_runs([texts(5, 8, 10)], tokens_per_run=2048)
    assert run.ids.shape == (3, 10)


def test_no_request_gives_no_run() -> None:
    assert list(batching.plan_runs([], tokens_per_run=24)) == []


@pytest.mark.parametrize(
    ("ids", "mask", "complaint"),
    [
        (np.ones((1, 2)), np.ones((1, 3)), r"shape \[1, 2\]"),
        (np.ones((1, 513)), np.ones((1, 513)), "513 tokens"),
        (np.ones((1, 0)), np.ones((1, 0)), "0 tokens"),
        (np.full((1, 2), 1000), np.ones((1, 2)), "vocabulary"),
        (np.full((1, 2), -1), np.ones((1, 2)), "vocabulary"),
    ],
)
def test_wrong_tensors_are_refused(ids: np.ndarray, mask: np.ndarray, complaint: str) -> None:
    with pytest.raises(batching.BadInput, match=complaint):
        batching.Texts.check(ids.astype(np.int64), mask.astype(np.int64), vocabulary=1000, positions=512)


def test_a_text_of_padding_alone_counts_as_one_token() -> None:
    empty = batching.Texts.check(np.zeros((1, 4), np.int64), np.zeros((1, 4), np.int64), vocabulary=10, positions=512)
    assert list(empty.lengths) == [1]
