"""An OpenAI-compatible upstream for benchmarks; the model that is asked for says how it answers.

`bench` answers at once, with the first sentence of passage 1, cited. `bench-paced` streams TOKENS_PER_S tokens, each
with the moment at which it was sent. `bench-slow` has few workers, first come first served, as a server of models has.
It does nothing else that takes time, so that what is measured is the platform. Run it as a process:
`python upstream.py PORT`.
"""

import asyncio
import random
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson
import uvloop

HEADER_END = b"\r\n\r\n"
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
FIRST_SENTENCE = re.compile(r'<passage n="1"[^>]*>\n(.+?[.!?])(?:\s|$)')
NOTHING = "The passages do not answer this question."
TOKENS_PER_S = 50
WORKERS, SERVICE_S = 8, 0.1
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Request = dict[str, Any]
Write = Callable[[bytes], None]


def answer(request: Request) -> bytes:
    """Return the whole response to a chat completion request."""
    prompt = "\n".join(_texts(request))
    sentence = FIRST_SENTENCE.search(prompt)
    text = f"{sentence.group(1)} [1]" if sentence else NOTHING
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4, "total_tokens": 0}
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    if not request.get("stream"):
        message = {"role": "assistant", "content": text}
        whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request["model"]}
        whole |= {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        return _response("application/json", orjson.dumps(whole))
    half = len(text) // 2
    deltas = [{"role": "assistant", "content": ""}, {"content": text[:half]}, {"content": text[half:]}]
    chunks = [_chunk(request, delta) for delta in deltas]
    return _response("text/event-stream", b"".join([*chunks, _end(request, usage)]))


def _texts(request: Request) -> list[str]:
    """Return what is text in a conversation."""
    contents = [message["content"] for message in request["messages"]]
    parts = [content if isinstance(content, list) else [{"text": content}] for content in contents]
    return [part["text"] for content in parts for part in content if "text" in part]


def _response(kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _chunk(request: Request, delta: dict[str, str], reason: str | None = None) -> bytes:
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": request["model"]}
    shared["choices"] = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return b"data: " + orjson.dumps(shared) + b"\n\n"


def _end(request: Request, usage: dict[str, int]) -> bytes:
    last = orjson.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage})
    return _chunk(request, {}, "stop") + b"data: " + last + b"\n\ndata: [DONE]\n\n"


class PacedStream:
    """Writes a token every 20 ms by the clock; each says `@number:sent:received;`, in ns of the monotonic clock."""

    def __init__(self, request: Request, write: Write) -> None:
        self._request, self._write = request, write
        self._loop = asyncio.get_running_loop()
        self._tokens = int(request["max_tokens"])
        self._before, _, self._after = _chunk(request, {"content": "TOKEN"}).partition(b"TOKEN")
        self._received_ns = time.monotonic_ns()
        self._begun_s = self._loop.time()
        self._number = 0
        self._write(STREAM_HEAD)
        self._wait()

    def _wait(self) -> None:
        self._loop.call_at(self._begun_s + (self._number + 1) / TOKENS_PER_S, self._send)

    def _send(self) -> None:
        if self._number == self._tokens:
            usage = {"prompt_tokens": 8, "completion_tokens": self._tokens, "total_tokens": 8 + self._tokens}
            end = _end(self._request, usage)
            self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end))
            return
        token = b"@%d:%d:%d;" % (self._number, time.monotonic_ns(), self._received_ns)
        event = self._before + token + self._after
        self._write(b"%x\r\n%b\r\n" % (len(event), event))
        self._number += 1
        self._wait()


class Workers:
    """Answers a few requests at a time, each after a while; the others wait in their order."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(WORKERS)
        self._running: set[asyncio.Task[None]] = set()

    def take(self, request: Request, write: Write) -> None:
        """Answer a request when it is its turn."""
        task = asyncio.get_running_loop().create_task(self._answer(request, write))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, request: Request, write: Write) -> None:
        async with self._free:
            await asyncio.sleep(random.gammavariate(4, SERVICE_S / 4))
        write(answer(request))


class Upstream(asyncio.Protocol):
    """One kept-alive connection."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._received = bytearray()
        self._wanted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with nothing received."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._received += data
        while len(self._received) >= self._wanted and (end := self._received.find(HEADER_END)) >= 0:
            length = LENGTH.search(self._received, 0, end)
            start = end + len(HEADER_END)
            self._wanted = start + (int(length.group(1)) if length else 0)
            if len(self._received) < self._wanted:
                return
            body = bytes(memoryview(self._received)[start : self._wanted])
            del self._received[: self._wanted]
            self._wanted = 0
            self._answer(orjson.loads(body))

    def _answer(self, request: Request) -> None:
        if request["model"] == "bench-paced":
            PacedStream(request, self._write)
        elif request["model"] == "bench-slow":
            self._workers.take(request, self._write)
        else:
            self._write(answer(request))

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


async def serve(port: int, host: str = "127.0.0.1") -> None:
    """Serve until the process is ended."""
    workers = Workers()
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(workers), host, port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), *sys.argv[2:]))
