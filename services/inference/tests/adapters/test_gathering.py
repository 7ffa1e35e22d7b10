"""Work of many streams waits for one another, and never gets lost."""

import asyncio
from functools import partial

from inference.adapters.gathering import LONGEST_S, PER_STREAM_S, SHORTEST_S, Gathering
from servicekit.testing import eventually

MANY = int(LONGEST_S / PER_STREAM_S)
FEW = int(SHORTEST_S / PER_STREAM_S) - 1


async def test_with_few_streams_nothing_waits() -> None:
    done: list[int] = []
    gathering = Gathering()
    gathering.streams = FEW
    gathering.put(partial(done.append, 1))
    assert done == [1]


async def test_with_many_it_is_done_together_and_in_order() -> None:
    done: list[int] = []
    gathering, loop = Gathering(), asyncio.get_running_loop()
    gathering.streams = 10 * MANY
    seen: list[int] = []
    start_s = loop.time()
    gathering.put(lambda: loop.call_soon(lambda: seen.append(len(done))) and None)
    for number in range(5):
        gathering.put(partial(done.append, number))
    assert done == []
    await eventually(lambda: bool(seen))
    assert (done, seen) == ([0, 1, 2, 3, 4], [5]), "in one turn of the loop"
    assert loop.time() - start_s >= LONGEST_S


async def test_what_comes_when_the_others_have_left_still_goes_with_what_waits() -> None:
    done: list[int] = []
    gathering = Gathering()
    gathering.streams = MANY
    gathering.put(partial(done.append, 1))
    gathering.streams = 1
    gathering.put(partial(done.append, 2))
    assert done == [], "it would pass by what came before"
    await eventually(lambda: done == [1, 2])


async def test_work_that_makes_work() -> None:
    done: list[int] = []
    gathering = Gathering()
    gathering.streams = MANY

    def first() -> None:
        done.append(1)
        gathering.put(partial(done.append, 3))

    gathering.put(first)
    gathering.put(partial(done.append, 2))
    await eventually(lambda: done == [1, 2, 3])
