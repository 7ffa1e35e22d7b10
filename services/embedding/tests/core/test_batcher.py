"""Pooling, cancellation, failure and context of batches, seen through the embedder."""

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

import pytest
from embedding.core.embedder import Embedder
from embedding.core.length_queue import BatchLimits
from embedding_fakes import FakeEncoder, ids, running, vector
from servicekit import deadline
from servicekit.errors import Unavailable
from servicekit.testing import eventually

CALLER: ContextVar[str] = ContextVar("caller")


def start(work: Awaitable[Any]) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work)  # type: ignore[return-value]


async def call(embedder: Embedder, texts: list[str], name: str = "", timeout_s: float = 60) -> Any:
    CALLER.set(name)
    with deadline.within(timeout_s):
        return await embedder.embed("", texts)


async def test_a_lone_text_departs_at_once_and_others_pool_while_it_is_away() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder) as embedder:
        first = start(embedder.embed("", ["lone"]))
        await eventually(lambda: encoder.running == 1)
        others = [start(embedder.embed("", [f"n{number}"])) for number in range(10)]
        await asyncio.sleep(0)
        encoder.release_all()
        await asyncio.gather(first, *others)
    assert [len(batch) for batch in encoder.batches] == [1, 10]


async def test_no_more_batches_at_once_than_allowed_and_none_too_large() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder, batch=BatchLimits(texts=4), concurrent=3) as embedder:
        request = start(embedder.embed("", [f"n{number}" for number in range(22)]))
        await eventually(lambda: encoder.running == 3)
        encoder.release_all()
        await request
    assert encoder.most_running == 3
    assert sorted(map(len, encoder.batches)) == [2, 4, 4, 4, 4, 4]


async def test_the_next_batch_is_at_the_encoder_before_the_last_one_is_handed_out() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder, concurrent=1) as embedder:

        async def seen() -> int:
            await embedder.embed("", ["first"])
            return len(encoder.batches)

        first = start(seen())
        await eventually(lambda: encoder.running == 1)
        second = start(embedder.embed("", ["second"]))
        await asyncio.sleep(0)
        encoder.release_all()
        assert await first == 2
        await second
    assert encoder.most_running == 1


async def test_a_failure_reaches_exactly_the_callers_in_the_batch() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder) as embedder:
        first = start(embedder.embed("", ["a", "b"]))
        await eventually(lambda: encoder.running == 1)
        second = start(embedder.embed("", ["b"]))
        third = start(embedder.embed("", ["c"]))
        await asyncio.sleep(0)
        encoder.failure = lambda: Unavailable("broken")
        encoder.on_encode = lambda: setattr(encoder, "failure", None)
        encoder.release_all()
        results = await asyncio.gather(first, second, third, return_exceptions=True)
    assert isinstance(results[0], Unavailable)
    assert isinstance(results[1], Unavailable)
    assert results[2].vectors == vector("c")


async def test_a_cancelled_callers_texts_leave_the_queue_unless_another_wants_them() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder) as embedder:
        blocker = start(embedder.embed("", ["blocker"]))
        await eventually(lambda: encoder.running == 1)
        gone = start(embedder.embed("", ["his", "shared"]))
        stays = start(embedder.embed("", ["shared"]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        encoder.release_all()
        await asyncio.gather(blocker, stays)
        assert [text for batch in encoder.batches for text in batch] == [ids("blocker"), ids("shared")]
        assert (await embedder.embed("", ["his"])).vectors == vector("his")


async def test_a_batch_that_nobody_waits_for_is_cancelled_and_its_slot_is_free_again() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder) as embedder:
        calls = [start(embedder.embed("", [text])) for text in "ab"]
        await eventually(lambda: encoder.running == 1)
        calls[0].cancel()
        await asyncio.sleep(0)
        assert encoder.cancelled == 0
        calls[1].cancel()
        await eventually(lambda: encoder.cancelled == 1)
        encoder.held = False
        assert (await embedder.embed("", ["a"])).vectors == vector("a")


async def test_a_caller_gone_before_his_batch_took_its_first_step_leaks_no_slot() -> None:
    encoder = FakeEncoder()
    async with running(encoder) as embedder:
        await embedder.encoder("")
        for turns in range(8):
            gone = start(embedder.embed("", [f"n{turns}"]))
            for _ in range(turns):
                await asyncio.sleep(0)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        async with asyncio.timeout(5):
            assert (await embedder.embed("", ["a"])).vectors == vector("a")


async def test_a_batch_is_sent_for_its_most_patient_caller() -> None:
    encoder = FakeEncoder(held=True)
    seen: list[tuple[str, float]] = []
    encoder.on_encode = lambda: seen.append((CALLER.get(), deadline.remaining_s() or 0.0))
    async with running(encoder) as embedder:
        blocker = start(call(embedder, ["blocker"], "blocker"))
        await eventually(lambda: encoder.running == 1)
        calls = [start(call(embedder, [f"n{s}"], f"caller {s}", s)) for s in (10, 50, 30)]
        await asyncio.sleep(0)
        encoder.release_all()
        await asyncio.gather(blocker, *calls)
    assert [name for name, _ in seen] == ["blocker", "caller 50"]
    assert 49 < seen[1][1] <= 50


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder, waiting=3) as embedder:
        calls = [start(embedder.embed("", [text])) for text in ("a",)]
        await eventually(lambda: encoder.running == 1)
        calls.append(start(embedder.embed("", ["b", "c"])))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as caught:
            await embedder.embed("", ["d", "e"])
        calls.append(start(embedder.embed("", ["d"])))
        await asyncio.sleep(0)
        encoder.release_all()
        await asyncio.gather(*calls)
    assert caught.value.reason == "queue_full"
    assert caught.value.retry_after_s == 1.0
    assert ids("e") not in [text for batch in encoder.batches for text in batch]


async def test_who_waits_at_the_end_is_told_that_the_service_stops() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder) as embedder:
        calls = [start(embedder.embed("", ["away"]))]
        await eventually(lambda: encoder.running == 1)
        calls.append(start(embedder.embed("", ["queued"])))
        await asyncio.sleep(0)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(result, "reason", None) for result in results] == ["draining", "draining"]


async def test_under_load_every_text_arrives_once_and_right() -> None:
    encoder = FakeEncoder()
    async with running(encoder, concurrent=2, waiting=10_000) as embedder:
        requests = [[f"{'w ' * (n * k % 9)}t{n * k % 41}" for k in range(1, 1 + n % 7 * 5 + 1)] for n in range(1, 200)]
        tasks = [start(embedder.embed("", texts)) for texts in requests]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, (texts, result) in enumerate(zip(requests, results, strict=True)):
        if number % 3:
            assert result.vectors == b"".join(vector(text) for text in texts)
    sent = [text for batch in encoder.batches for text in batch]
    assert len(sent) == len(set(sent))
