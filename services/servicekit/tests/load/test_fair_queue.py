"""Who is next: importance first, then the tenant that was given least."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from servicekit.load.fair_queue import REMEMBERED_TENANTS, FairQueue, Share
from servicekit.load.priority import Priority

B, S, I = Priority  # noqa: E741
NOTHING_RUNS = [0, 0, 0]


@dataclass(slots=True, eq=False)
class Waiter:
    tenant: str
    priority: Priority = S
    share: Share | None = None
    charged_s: float = 0.0
    number: int = 0


def queue_of(*waiters: Waiter) -> FairQueue[Waiter]:
    queue: FairQueue[Waiter] = FairQueue()
    for waiter in waiters:
        queue.add(waiter, 1.0, 10.0)
    return queue


def drained(queue: FairQueue[Waiter], count: int | None = None) -> list[Waiter]:
    return [queue.take(NOTHING_RUNS, 100) for _ in range(count or queue.waiting)]


def test_the_more_important_class_goes_first_and_inside_it_the_oldest() -> None:
    batch, first, second, interactive = Waiter("a", B), Waiter("a"), Waiter("a"), Waiter("a", I)
    assert drained(queue_of(batch, first, second, interactive)) == [interactive, first, second, batch]


def test_tenants_take_turns_however_many_wait_of_each() -> None:
    queue = queue_of(*(Waiter("flood") for _ in range(90)), *(Waiter("a") for _ in range(10)))
    assert Counter(waiter.tenant for waiter in drained(queue, 20)) == {"flood": 10, "a": 10}


def test_a_tenant_whose_requests_hold_slots_longer_gets_fewer_of_them() -> None:
    queue = queue_of(*(Waiter("long") for _ in range(200)), *(Waiter("short") for _ in range(200)))
    held_s: Counter[str] = Counter()
    for _ in range(220):
        waiter = queue.take(NOTHING_RUNS, 100)
        took_s = 4.0 if waiter.tenant == "long" else 1.0
        assert waiter.share is not None
        waiter.share.settle(waiter.charged_s, took_s)
        held_s[waiter.tenant] += took_s
    assert 0.9 < held_s["long"] / held_s["short"] < 1.1


def test_time_away_is_no_credit_and_an_old_debt_is_at_most_a_round() -> None:
    queue = queue_of(*(Waiter("busy") for _ in range(50)))
    drained(queue, 40)
    for _ in range(30):
        queue.add(Waiter("fresh"), 1.0, 10.0)
    assert Counter(waiter.tenant for waiter in drained(queue, 10)) == {"busy": 5, "fresh": 5}
    drained(queue)
    for _ in range(100):
        queue.add(Waiter("new"), 1.0, 10.0)
        drained(queue)
    for _ in range(50):
        queue.add(Waiter("new"), 1.0, 10.0)
        queue.add(Waiter("busy"), 1.0, 10.0)
    assert Counter(waiter.tenant for waiter in drained(queue, 40))["new"] >= 15


def test_lesser_classes_get_their_share_while_more_important_ones_wait() -> None:
    queue = queue_of(*(Waiter("a", priority) for priority in Priority for _ in range(500)))
    taken = Counter(waiter.priority for waiter in drained(queue, 400))
    assert 15 <= taken[B] <= 25
    assert 30 <= taken[S] <= 45


def test_a_lesser_class_that_has_its_share_of_the_slots_waits() -> None:
    queue = queue_of(*(Waiter("a", priority) for priority in Priority for _ in range(500)))
    assert all(queue.take([5, 10, 85], 100).priority == I for _ in range(300))


def test_the_newest_of_the_tenant_with_the_most_waiting_makes_room() -> None:
    many = [Waiter("many") for _ in range(3)]
    queue = queue_of(*many, Waiter("few"))
    assert queue.victim(Waiter("few")) is many[-1]
    newcomer = Waiter("many")
    assert queue.victim(newcomer) is newcomer
    assert queue.victim(alone := Waiter("a", B)) is alone


def test_counts_who_is_ahead_of_a_newcomer() -> None:
    queue = queue_of(*(Waiter("many") for _ in range(8)), Waiter("few"), Waiter("a", I), Waiter("a", B))
    assert queue.ahead_of("many", S) == (1 + 9, 9)
    assert queue.ahead_of("fresh", S) == (1 + 2, 2)
    assert queue.ahead_of("fresh", I) == (1, 1)
    assert queue.ahead_of("fresh", B) == (10 + 1, 1)


def test_tells_who_waits_in_a_class_and_above_it() -> None:
    queue = queue_of(Waiter("a", B), Waiter("b", B), Waiter("c", S))
    assert [queue.waiting_from(priority) for priority in Priority] == [3, 1, 0]
    assert queue.highest() == S


def test_a_million_tenants_leave_no_more_than_a_bound_behind() -> None:
    queue: FairQueue[Waiter] = FairQueue()
    for number in range(20 * REMEMBERED_TENANTS):
        queue.add(Waiter(f"tenant-{number}"), 1.0, 10.0)
        drained(queue)
    inside = queue._classes[S]
    assert len(inside._shares) == REMEMBERED_TENANTS
    assert not inside.lines


STEPS = st.lists(st.tuples(st.sampled_from("atr"), st.integers(0, 5), st.sampled_from(list(Priority))), max_size=120)


@given(STEPS)
def test_nobody_is_lost_or_served_twice(steps: list[tuple[str, int, Priority]]) -> None:
    queue: FairQueue[Waiter] = FairQueue()
    waiting: list[Waiter] = []
    for action, number, priority in steps:
        if action == "a":
            waiting.append(Waiter(f"t{number}", priority, number=len(waiting)))
            queue.add(waiting[-1], 1.0, 10.0)
        elif waiting and action == "t":
            taken = queue.take(NOTHING_RUNS, 10)
            mine = [other for other in waiting if (other.tenant, other.priority) == (taken.tenant, taken.priority)]
            assert taken is mine[0]
            waiting.remove(taken)
        elif waiting:
            gone = waiting.pop(number % len(waiting))
            assert queue.remove(gone)
            assert not queue.remove(gone)
        assert queue.waiting == len(waiting)
        assert [queue.waiting_in(each) for each in Priority] == [
            sum(waiter.priority == each for waiter in waiting) for each in Priority
        ]
