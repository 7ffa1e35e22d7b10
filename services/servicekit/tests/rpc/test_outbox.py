"""What waits to go out goes in order, together, and nothing of it is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from servicekit.rpc.outbox import PATIENCE_S, Outbox
from servicekit.testing import eventually


class Wire:
    """Keeps the messages that were written."""

    def __init__(self) -> None:
        self.messages: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, message: list[str]) -> None:
        await self.open.wait()
        self.messages.append(message)


@asynccontextmanager
async def sending(calls: int = 1) -> AsyncIterator[tuple[Outbox, Wire]]:
    wire = Wire()
    outbox = Outbox(wire.write, list, lambda: calls)
    task = asyncio.create_task(outbox.send())
    try:
        yield outbox, wire
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_there_at_a_time_is_one_message() -> None:
    async with sending() as (outbox, wire):
        for item in "abc":
            outbox.put(item, 1)
        await outbox.empty()
        assert wire.messages == [["a", "b", "c"]]


async def test_a_patient_item_goes_with_the_next_one_or_alone_in_its_time() -> None:
    loop = asyncio.get_running_loop()
    async with sending() as (outbox, wire):
        outbox.put_patiently("credit")
        outbox.put("a", 1)
        await outbox.empty()
        assert wire.messages == [["credit", "a"]]
        start_s = loop.time()
        outbox.put_patiently("alone")
        await outbox.empty()
        assert wire.messages[1:] == [["alone"]]
        assert loop.time() - start_s >= PATIENCE_S - 0.001


async def test_a_patient_item_that_comes_while_a_message_is_written_is_not_forgotten() -> None:
    async with sending() as (outbox, wire):
        wire.open.clear()
        outbox.put("a", 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        outbox.put_patiently("credit")
        wire.open.set()
        await eventually(lambda: wire.messages == [["a"], ["credit"]])
        await outbox.empty()


@pytest.mark.parametrize(("calls", "messages"), [(1, [["a"], ["b"], ["c"]]), (32, [["a"], ["b", "c"]])])
async def test_on_a_busy_stream_an_item_waits_for_those_of_other_calls(calls: int, messages: list[list[str]]) -> None:
    async with sending(calls) as (outbox, wire):
        for item in "abc":
            outbox.put(item, 1)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await outbox.empty()
    assert wire.messages == messages
