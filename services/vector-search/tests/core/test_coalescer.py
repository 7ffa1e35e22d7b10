"""Coalescing of what is asked at the same time."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from servicekit.testing import eventually
from vector_search.core.coalescer import Coalescer


class Doubler:
    """Doubles numbers once it is let go; keeps the batches."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, key: str, questions: Sequence[int]) -> list[int]:
        self.batches.append(list(questions))
        assert self.let_go.wait(5)
        if -1 in questions:
            raise ValueError(key)
        return [2 * question for question in questions]


def never(_key: str, _questions: int) -> bool:
    return False


async def test_what_is_asked_meanwhile_goes_together() -> None:
    doubler = Doubler()
    with ThreadPoolExecutor(2) as executor:
        coalescer: Coalescer[str, int, int] = Coalescer(doubler, executor, never)
        asked = [asyncio.create_task(coalescer.ask("a", 0))]
        await eventually(lambda: bool(doubler.batches))
        asked += [asyncio.create_task(coalescer.ask("a", number)) for number in range(1, 5)]
        await asyncio.sleep(0)
        doubler.let_go.set()
        assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8]
    assert doubler.batches == [[0], [1, 2, 3, 4]]


async def test_keys_do_not_mix_and_who_left_is_dropped() -> None:
    doubler = Doubler()
    with ThreadPoolExecutor(2) as executor:
        coalescer: Coalescer[str, int, int] = Coalescer(doubler, executor, never)
        asked = [asyncio.create_task(coalescer.ask("a", 0))]
        await eventually(lambda: len(doubler.batches) == 1)
        asked += [asyncio.create_task(coalescer.ask(key, number)) for number, key in enumerate("aab", start=1)]
        await eventually(lambda: len(doubler.batches) == 2)
        asked[1].cancel()
        await asyncio.sleep(0)
        doubler.let_go.set()
        assert await asyncio.gather(asked[0], *asked[2:]) == [0, 4, 6]
    assert sorted(doubler.batches) == [[0], [2], [3]]


async def test_a_failure_reaches_its_batch_and_no_other() -> None:
    doubler = Doubler()
    doubler.let_go.set()
    with ThreadPoolExecutor(1) as executor:
        coalescer: Coalescer[str, int, int] = Coalescer(doubler, executor, never)
        with pytest.raises(ValueError, match="a"):
            await coalescer.ask("a", -1)
        assert await coalescer.ask("a", 4) == 8


async def test_what_is_short_runs_on_the_loop_and_together() -> None:
    threads: list[int] = []

    def double(key: str, questions: Sequence[int]) -> list[int]:
        threads.append(threading.get_ident())
        if -1 in questions:
            raise ValueError(key)
        return [2 * question for question in questions]

    with ThreadPoolExecutor(1) as executor:
        coalescer: Coalescer[str, int, int] = Coalescer(double, executor, lambda _, questions: questions < 4)
        assert await asyncio.gather(*(coalescer.ask("a", number) for number in range(3))) == [0, 2, 4]
        with pytest.raises(ValueError, match="a"):
            await coalescer.ask("a", -1)
        assert threads == [threading.get_ident()] * 2
        assert await asyncio.gather(*(coalescer.ask("a", number) for number in range(4))) == [0, 2, 4, 6]
        assert threads[2] != threading.get_ident()
