"""Which of two indexes is asked, and that memory has what the log has."""

import asyncio

from servicekit.testing import eventually
from vector_search.core.sized import KEPT_S, Limits, SizedIndex
from vector_search_fakes import DIMENSIONS, ENCODER, FakeDenseIndex, FakeLog, Running, entry_of, question_of, running

ROW_BYTES = 4 * DIMENSIONS
PLENTY = 1_000_000


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def sized(
    log: FakeLog, large: FakeDenseIndex, rows: int, size_bytes: int = PLENTY, clock: Clock | None = None
) -> SizedIndex:
    return SizedIndex(large, log, Limits(rows, size_bytes), clock or Clock())


async def filled(made: Running, name: str, documents: int) -> None:
    for number in range(documents):
        await made.store.put("acme", name, entry_of(f"d{number}", f"text {number}"), ENCODER)


async def found(made: Running, name: str, text: str) -> list[str]:
    return [hit.chunk.text for hit in (await made.store.search("acme", name, question_of(text))).hits]


async def test_a_small_base_is_searched_in_memory_and_follows_every_change() -> None:
    log, large = FakeLog(), FakeDenseIndex()
    index = sized(log, large, 3)
    async with running(log, index) as made:
        await filled(made, "kb", 2)
        assert (await found(made, "kb", "text 1"))[0] == "text 1"
        assert index.at_once(1, 1)
        await made.store.put("acme", "kb", entry_of("d1", "text new"), ENCODER)
        await made.store.drop("acme", "kb", "d0")
        assert await found(made, "kb", "text new") == ["text new"]
        assert not large.asked
        await made.store.delete("acme", "kb")
        assert not index.at_once(1, 1)


async def test_a_base_that_outgrows_memory_goes_to_the_large_index_and_comes_back() -> None:
    log, large = FakeLog(), FakeDenseIndex()
    async with running(log, sized(log, large, 3)) as made:
        await filled(made, "kb", 3)
        await found(made, "kb", "text 1")
        assert large.asked == []
        await filled(made, "kb", 4)
        assert (await found(made, "kb", "text 3"))[0] == "text 3"
        assert large.asked == [1]
        await made.store.drop("acme", "kb", "d0")
        assert sorted(await found(made, "kb", "text 3")) == ["text 1", "text 2", "text 3"]
        assert large.asked == [1]


async def test_no_rows_turns_memory_off() -> None:
    log, large = FakeLog(), FakeDenseIndex()
    async with running(log, sized(log, large, 0)) as made:
        await filled(made, "kb", 1)
        assert await found(made, "kb", "text 0") == ["text 0"]
    assert large.asked == [1]


async def test_memory_is_bounded_and_what_was_not_used_lately_leaves_it() -> None:
    log, large, clock = FakeLog(), FakeDenseIndex(), Clock()
    index = sized(log, large, 10, 5 * ROW_BYTES, clock)
    async with running(log, index) as made:
        for name in ("one", "two"):
            await filled(made, name, 3)
        await found(made, "one", "text 0")
        await found(made, "two", "text 0")
        assert large.asked == [1], "the first one was used a moment ago"
        clock.now_s += KEPT_S + 1
        await found(made, "two", "text 0")
        assert large.asked == [1]
        assert [index.at_once(base, 1) for base in (1, 2)] == [False, True]


async def test_memory_has_what_the_log_has_although_the_large_index_failed() -> None:
    log, large = FakeLog(), FakeDenseIndex()
    async with running(log, sized(log, large, 10)) as made:
        await filled(made, "kb", 2)
        await found(made, "kb", "text 0")
        large.broken = True
        outcome = await asyncio.gather(
            made.store.put("acme", "kb", entry_of("d2", "text 2"), ENCODER), return_exceptions=True
        )
        assert isinstance(outcome[0], Exception)
        large.broken = False
        await eventually(lambda: made.store.get("acme", "kb").document_count == 3)
        assert (await found(made, "kb", "text 2"))[0] == "text 2"
        assert not large.asked
