"""A fast OpenAI-compatible upstream for benchmarks: answers with the first sentence of passage 1, cited.

It does nothing that a real server would be slow at, so that what is measured is the platform. Run it as a process:
`python upstream.py PORT`.
"""

import asyncio
import json
import re
import sys

import uvloop

HEADER_END = b"\r\n\r\n"
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
FIRST_SENTENCE = re.compile(r'<passage n="1"[^>]*>\n(.+?[.!?])(?:\s|$)')
NOTHING = "The passages do not answer this question."


def answer(body: bytes) -> bytes:
    """Return the whole response to a chat completion request."""
    request = json.loads(body)
    prompt = "\n".join(message["content"] for message in request["messages"])
    sentence = FIRST_SENTENCE.search(prompt)
    text = f"{sentence.group(1)} [1]" if sentence else NOTHING
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4, "total_tokens": 0}
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    if not request.get("stream"):
        message = {"role": "assistant", "content": text}
        whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request["model"]}
        whole |= {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        return _response("application/json", json.dumps(whole).encode())
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": request["model"]}
    half = len(text) // 2
    deltas = [{"role": "assistant", "content": ""}, {"content": text[:half]}, {"content": text[half:]}]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
    events = "".join(f"data: {json.dumps(shared | chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"
    return _response("text/event-stream", events)


def _response(kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Upstream(asyncio.Protocol):
    """One kept-alive connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with nothing received."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._received += data
        while (end := self._received.find(HEADER_END)) >= 0:
            length = LENGTH.search(self._received[:end])
            start = end + len(HEADER_END)
            stop = start + (int(length.group(1)) if length else 0)
            if len(self._received) < stop:
                return
            body, self._received = self._received[start:stop], self._received[stop:]
            self._transport.write(answer(body))


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
