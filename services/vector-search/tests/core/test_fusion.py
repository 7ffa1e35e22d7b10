"""Reciprocal rank fusion."""

from vector_search.core.fusion import RRF_K, fuse


def test_a_row_in_both_legs_wins() -> None:
    fused = fuse([(1, 0.9), (2, 0.8)], [(2, 7.0), (3, 6.0)])
    assert [row for row, _ in fused] == [2, 1, 3]
    assert fused[0][1] == 1 / (RRF_K + 2) + 1 / (RRF_K + 1)


def test_one_leg_alone_keeps_its_order() -> None:
    assert [row for row, _ in fuse([], [(5, 2.0), (4, 1.0)])] == [5, 4]
    assert fuse([], []) == []
