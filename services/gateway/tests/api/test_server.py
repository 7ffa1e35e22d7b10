"""The socket under the REST door."""

import asyncio
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from gateway.api.head_deadline import PunctualProtocol
from gateway.api.server import GatheringTransport
from gateway_fakes import Gateway


async def test_no_answer_waits_for_the_callers_acknowledgement(http: httpx.AsyncClient, gateway: Gateway) -> None:
    """Without TCP_NODELAY what follows a first packet waits for the delayed ACK, 40 ms, every time."""
    took_s = []
    for _ in range(10):
        start = time.perf_counter()
        assert (await http.get("/v2")).status_code == 200
        took_s.append(time.perf_counter() - start)
    assert min(took_s) < 0.03, took_s


class Sink(asyncio.Transport):
    """Keeps what is written, call by call."""

    def __init__(self, written: list[bytes] | None = None) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written: list[bytes] = [] if written is None else written
        self.closed = False

    def writelines(self, list_of_data: Any) -> None:
        self.written.append(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_a_head_is_sent_with_what_follows_it_at_once_and_alone_when_nothing_does() -> None:
    sink = Sink()
    transport = GatheringTransport(sink, asyncio.get_running_loop())
    transport.write(b"head ")
    assert sink.written == []
    transport.write(b"body")
    assert sink.written == [b"head body"]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert sink.written == [b"head body", b"next"]
    assert transport.get_extra_info("peername") == ("127.0.0.1", 1)


async def test_pieces_of_streams_are_sent_one_after_the_other_when_all_of_a_turn_are_there() -> None:
    loop = asyncio.get_running_loop()
    written: list[bytes] = []
    sinks = [Sink(written) for _ in range(3)]
    streams = [GatheringTransport(sink, loop) for sink in sinks]
    for round_ in (b"a", b"b"):
        for number, stream in enumerate(streams):
            stream.send_soon(b"%d%b" % (number, round_))
    assert written == []
    await asyncio.sleep(0)
    assert written == [b"0a0b", b"1a1b", b"2a2b"]


async def test_a_piece_of_a_stream_and_what_the_framework_writes_behind_it_keep_their_order() -> None:
    sink = Sink()
    transport = GatheringTransport(sink, asyncio.get_running_loop())
    transport.send_soon(b"piece ")
    transport.write(b"end")
    transport.send_soon(b"never first")
    assert sink.written == [b"piece end"]
    await asyncio.sleep(0)
    assert sink.written == [b"piece end", b"never first"]


async def test_what_is_left_is_sent_before_the_end_and_nothing_after_it() -> None:
    sink = Sink()
    transport = GatheringTransport(sink, asyncio.get_running_loop())
    transport.write(b"last")
    transport.close()
    assert (sink.written, sink.closed) == ([b"last"], True)
    transport.write(b"late")
    await asyncio.sleep(0)
    assert sink.written == [b"last"]


@pytest.mark.parametrize("head", [b"", b"GET /v2 HTTP/1.1\r\nHost: here\r\nX-Slow: "])
async def test_a_head_that_does_not_come_is_not_waited_for(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(PunctualProtocol, "head_s", 0.2)
    reader, writer = await asyncio.open_connection(*urlsplit(gateway.url).netloc.split(":"))
    writer.write(head)

    async def drip() -> None:
        while head:
            await asyncio.sleep(0.02)
            writer.write(b"a")

    dripping = asyncio.create_task(drip())
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    dripping.cancel()
    writer.close()


async def test_a_kept_connection_may_wait_and_its_next_slow_head_may_not(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PunctualProtocol, "head_s", 0.2)
    reader, writer = await asyncio.open_connection(*urlsplit(gateway.url).netloc.split(":"))
    for _ in range(3):
        writer.write(b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
        assert answer.startswith(b"HTTP/1.1 401 ")
        await asyncio.sleep(0.5)  # that nothing happens meanwhile is what is tested
    writer.write(b"GET /v2 HTTP/1.1\r\nHost: ")
    with suppress(ConnectionResetError):
        assert b"HTTP/1.1" not in await asyncio.wait_for(reader.read(), 10)
    writer.close()
