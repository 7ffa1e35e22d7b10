"""An OpenAI-compatible upstream that keeps a book of what it served, for tests that compare it with the ledger.

Run it as a process: `python paid_upstream.py`; its first line on stdout is its address. It counts what it reads as a
dense tokenizer would, and a template around it; it writes 5 to 12 words, fewer where `max_tokens` says so, or cites the
first passage of a prompt. A model whose name ends in `paced` writes 20 words, 100 ms apart.

  POST /v1/chat/completions     a chat, streamed or not
  GET  /book                    {"calls": n, "cut": n, "open": n, "input_tokens": n, "output_tokens": n}
  POST /reset                   begins a new book
"""

import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

TOKEN = re.compile(r"[a-z]{1,4}|[^a-z\s]")
PASSAGE = re.compile(r'<passage n="1"[^>]*>\n(.+?[.!?])(?:\s|$)')
TEMPLATE_TOKENS, MESSAGE_TOKENS = 25, 5
PAUSE_S = 0.1
PACED_WORDS = 20
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Book:
    """What was served: calls that came, those that were left before their end, and the tokens of all of them."""

    calls: int = 0
    cut: int = 0
    open: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PaidUpstream:
    """The running program."""

    url: str

    def book(self) -> Book:
        """Return what it has served so far."""
        with _opener.open(f"{self.url}/book", timeout=10) as response:
            return Book(**json.load(response))

    def reset(self) -> None:
        """Begin a new book."""
        with _opener.open(urllib.request.Request(f"{self.url}/reset", method="POST"), timeout=10) as response:
            response.read()


@contextmanager
def running_paid_upstream() -> Iterator[PaidUpstream]:
    """Start the program on a free port, and end it afterwards."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the paid upstream did not start"
            yield PaidUpstream(url)
        finally:
            process.kill()


def read_tokens(messages: list[dict[str, Any]]) -> int:
    """Count the tokens of a prompt."""
    return TEMPLATE_TOKENS + sum(MESSAGE_TOKENS + len(TOKEN.findall(each["content"])) for each in messages)


def words_of(request: dict[str, Any], number: int) -> list[str]:
    """Return what is answered to a request."""
    passage = PASSAGE.search("\n".join(each["content"] for each in request["messages"]))
    words = f"{passage.group(1)} [1]".split(" ") if passage else [f"word{n}" for n in range(5 + number % 8)]
    if request["model"].endswith("paced"):
        words = [f"word{n}" for n in range(PACED_WORDS)]
    most = request.get("max_tokens") or request.get("max_completion_tokens") or len(words)
    return [word if place == 0 else f" {word}" for place, word in enumerate(words[:most])]


class Server:
    """All connections, and one book."""

    def __init__(self) -> None:
        self.book = Book()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection until it is closed."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"content-length:\s*(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length.group(1)) if length else 0)
                await self._serve(head.split(" ", 2)[1], body, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/book":
            _whole(writer, asdict(self.book))
        elif path == "/reset":
            self.book = Book(open=self.book.open)
            _whole(writer, {})
        else:
            await self._complete(json.loads(body), writer)
        await writer.drain()

    async def _complete(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        book = self.book
        book.calls, book.open = book.calls + 1, book.open + 1
        read, written, words = read_tokens(request["messages"]), 0, words_of(request, book.calls)
        book.input_tokens += read
        try:
            async for _ in _written(request, words, read, writer):
                written += 1
                book.output_tokens += 1
        finally:
            book.open -= 1
            book.cut += written < len(words)


async def _written(
    request: dict[str, Any], words: list[str], read: int, writer: asyncio.StreamWriter
) -> AsyncIterator[str]:
    """Send an answer, yield each word as it is written; raise ConnectionError when nobody reads any longer."""
    pause_s = PAUSE_S if request["model"].endswith("paced") else 0.0
    usage = {"prompt_tokens": read, "completion_tokens": len(words), "total_tokens": read + len(words)}
    shared = {"id": "chatcmpl-1", "created": 1, "model": request["model"]}
    if not request.get("stream"):
        for word in words:
            await asyncio.sleep(pause_s)
            if writer.transport.is_closing():
                raise ConnectionResetError
            yield word
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(words)}, "finish_reason": "stop"}
        _whole(writer, shared | {"object": "chat.completion", "choices": [choice], "usage": usage})
        return
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for place, word in enumerate(words):
        await asyncio.sleep(pause_s)
        delta = {"role": "assistant", "content": word} if place == 0 else {"content": word}
        _event(writer, shared | _chunk(delta, None))
        await writer.drain()
        if writer.transport.is_closing():
            raise ConnectionResetError
        yield word
    _event(writer, shared | _chunk({}, "stop"))
    _event(writer, shared | {"object": "chat.completion.chunk", "choices": [], "usage": usage})
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def _chunk(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def _event(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    line = f"data: {json.dumps(value)}\n\n".encode()
    writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")


def _whole(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    sent = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    writer.write(head.encode() + sent)


async def serve() -> None:
    """Serve on the loopback interface until the process is ended; print the address first."""
    server = await asyncio.start_server(Server().connected, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
