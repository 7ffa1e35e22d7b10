"""A client that leaves: the upstream's connection is closed within a second, streamed or not."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from servicekit.testing import eventually

PORT = 18_998
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHAT = {"model": "endless-upstream", "messages": [{"role": "user", "content": "Go on."}]}


@dataclass
class Endless:
    """An upstream that writes a word every 20 ms until its caller is gone, and remembers when that was."""

    begun: int = 0
    left_at: list[float] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        await reader.readuntil(b"\r\n\r\n")
        self.begun += 1
        writer.write(HEAD)
        gone = asyncio.ensure_future(self._gone(reader))
        while not gone.done():
            choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
            event = f"data: {json.dumps({'choices': [choice]})}\n\n".encode()
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await asyncio.wait([gone], timeout=0.02)
        self.left_at.append(time.monotonic())
        writer.close()

    @staticmethod
    async def _gone(reader: asyncio.StreamReader) -> None:
        try:
            while await reader.read(65_536):
                pass
        except ConnectionError:
            return


@asynccontextmanager
async def endless(host: str) -> AsyncIterator[Endless]:
    """Run the upstream where the catalogue says it is."""
    upstream = Endless()
    server = await asyncio.start_server(upstream.answer, host, PORT)
    async with server:
        yield upstream


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_closes_the_upstream_within_a_second(
    rest: httpx.AsyncClient, upstream_host: str, stream: bool
) -> None:
    async with endless(upstream_host) as upstream:
        call = asyncio.ensure_future(rest.post("/v1/chat/completions", json={**CHAT, "stream": stream}))
        await eventually(lambda: upstream.begun == 1)
        await asyncio.sleep(0.2)
        left = time.monotonic()
        call.cancel()
        await eventually(lambda: bool(upstream.left_at), timeout_s=5)
    assert upstream.left_at[0] - left < 1.0
