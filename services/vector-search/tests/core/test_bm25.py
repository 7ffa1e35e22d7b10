"""BM25 against its formula, and its upkeep."""

import math

import numpy as np
from vector_search.core.bm25 import K1, B, Bm25

TEXTS = {1: ["red", "fox"], 2: ["red", "red", "hen", "pen"], 3: ["blue"]}


def filled() -> Bm25:
    index = Bm25()
    for row, terms in TEXTS.items():
        index.add(row, row * 10, terms)
    return index


def test_scores_are_those_of_the_formula() -> None:
    average = 7 / 3
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = {row: idf * f * (K1 + 1) / (f + K1 * (1 - B + B * n / average)) for row, f, n in ((1, 1, 2), (2, 2, 4))}
    found = dict(filled().search(["red"], 10))
    assert found.keys() == expected.keys()
    assert all(math.isclose(found[row], expected[row]) for row in expected)


def test_is_limited_and_selected() -> None:
    index = filled()
    assert len(index.search(["red", "blue"], 1)) == 1
    assert [row for row, _ in index.search(["red"], 10, np.array([10]))] == [1]
    assert index.search(["nothing"], 10) == []
    assert Bm25().search(["red"], 10) == []


def test_after_removals_it_equals_an_index_of_what_is_left() -> None:
    index = Bm25()
    for row in range(3_000):
        index.add(row, row, ["common", f"word{row % 7}", f"only{row}"])
    index.remove(range(2_500))
    fresh = Bm25()
    for row in range(2_500, 3_000):
        fresh.add(row, row, ["common", f"word{row % 7}", f"only{row}"])
    assert len(index) == 500
    for terms in (["common"], ["word3", "only2700"], ["only3"]):
        assert index.search(terms, 20) == fresh.search(terms, 20)
