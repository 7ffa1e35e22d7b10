"""Batching and remembering of sentence vectors."""

import numpy as np
from encoder import MAX_BATCH, MAX_TOKENS, SentenceEncoder, Tokens
from features import Vectors
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace


class Calls:
    """Encodes a text as the sum and the number of its tokens, and remembers the shapes."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, ids: Tokens, mask: Tokens) -> Vectors:
        self.shapes.append((ids.shape[0], ids.shape[1]))
        assert np.all((ids > 0) == (mask == 1))
        return np.stack([ids.sum(axis=1), mask.sum(axis=1)], axis=1).astype(np.float32)


def make(calls: Calls, cache_entries: int = 100) -> SentenceEncoder:
    tokenizer = Tokenizer(WordLevel({"?": 3, "a": 1, "b": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    return SentenceEncoder(tokenizer, calls, cache_entries)


def test_returns_vectors_in_order_though_batches_are_sorted_by_length() -> None:
    calls = Calls()
    assert make(calls).encode(["a b a", "b", "a a"]).tolist() == [[4, 3], [2, 1], [2, 2]]
    assert calls.shapes == [(3, 3)]


def test_batches_are_bounded_and_long_texts_cut() -> None:
    calls = Calls()
    make(calls).encode(["a " * count for count in range(1, 2 * MAX_BATCH)] + ["b " * 1000])
    assert calls.shapes == [(MAX_BATCH, MAX_BATCH), (MAX_BATCH, MAX_TOKENS)]


def test_encodes_each_distinct_unknown_text_once() -> None:
    calls = Calls()
    encoder = make(calls)
    encoder.encode(["a", "b", "a"])
    assert encoder.encode(["b", "a", "a b"]).tolist() == [[2, 1], [1, 1], [3, 2]]
    assert calls.shapes == [(2, 1), (1, 2)]


def test_forgets_the_least_recently_used() -> None:
    calls = Calls()
    encoder = make(calls, cache_entries=2)
    for text in ("a", "b", "a", "a a", "a", "b"):
        encoder.encode([text])
    assert len(calls.shapes) == 4


def test_one_question_may_exceed_the_cache() -> None:
    assert make(Calls(), cache_entries=1).encode(["a", "b", "a b"]).tolist() == [[1, 1], [2, 1], [3, 2]]
