"""What the index in memory does besides the promises that every dense index keeps."""

import numpy as np
import pytest
from servicekit.errors import Unavailable
from vector_search.core.exact import SHORT_PRODUCT, ExactIndex
from vector_search_fakes import DIMENSIONS, vector_of


def test_after_much_change_it_equals_an_index_of_what_is_left() -> None:
    index, left = ExactIndex(), ExactIndex()
    vectors = np.stack([vector_of(str(row)) for row in range(3_000)])
    index.create(1, DIMENSIONS)
    for start in range(0, 3_000, 100):
        index.add(1, [(row, row) for row in range(start, start + 100)], vectors[start : start + 100])
        index.remove(1, range(start, start + 70))
    kept = [row for row in range(3_000) if row % 100 >= 70]
    left.fill(1, [(row, row) for row in kept], vectors[kept])
    assert index.rows(1) == set(kept)
    assert index.search(1, vectors[:3], 20, None) == left.search(1, vectors[:3], 20, None)
    assert index.size_bytes() < 2 * left.size_bytes() + 1_000 * DIMENSIONS * 4


def test_equal_scores_are_in_order_of_rows() -> None:
    index = ExactIndex()
    index.fill(1, [(row, row) for row in (3, 1, 2)], np.stack([vector_of("same")] * 3))
    assert [row for row, _ in index.search(1, vector_of("same")[np.newaxis], 10, None)[0]] == [1, 2, 3]


def test_says_what_is_short_and_what_it_has_not() -> None:
    index = ExactIndex()
    index.fill(1, [(1, 1), (2, 2)], np.stack([vector_of("a"), vector_of("b")]))
    assert index.at_once(1, SHORT_PRODUCT // 2)
    assert not index.at_once(1, SHORT_PRODUCT // 2 + 1)
    assert not index.at_once(2, 1)
    with pytest.raises(Unavailable):
        index.search(2, vector_of("a")[np.newaxis], 1, None)
