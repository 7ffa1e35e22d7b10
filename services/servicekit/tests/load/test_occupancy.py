"""How many places each class holds: a mean over time, not over looks."""

import pytest
from servicekit.load.occupancy import REMEMBERED_S, SHORTEST_GAP_S, Occupancy
from servicekit.load.priority import Priority

B, S, I = Priority  # noqa: E741


def test_follows_what_runs_and_forgets_what_has_ended() -> None:
    occupancy = Occupancy(0.0)
    occupancy.look([3, 2, 1], 20 * REMEMBERED_S)
    assert [occupancy.of(priority) for priority in Priority] == pytest.approx([3, 2, 1])
    assert [occupancy.above(priority) for priority in Priority] == pytest.approx([3, 1, 0])
    occupancy.look([0, 0, 0], 21 * REMEMBERED_S)
    assert occupancy.of(B) == pytest.approx(3 / 2.71828, rel=1e-3)


def test_a_short_moment_counts_little_however_often_it_is_looked_at() -> None:
    occupancy = Occupancy(0.0)
    for step in range(100):
        occupancy.look([0, 0, 8], 1e-4 * step)
    assert occupancy.of(I) < 8 * 0.01 / REMEMBERED_S + 1e-6
    now_s = 0.0
    for step in range(4000):  # 8 run a quarter of the time
        now_s += 1.1 * SHORTEST_GAP_S
        occupancy.look([0, 0, 8 if step % 4 == 0 else 0], 0.01 + now_s)
    assert occupancy.of(I) == pytest.approx(2.0, rel=0.05)
