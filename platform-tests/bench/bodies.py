"""Bodies with an image of 5 MB, beside the same ones sent to the upstream itself; and bodies above the limit."""

import base64
import json
import random
import select
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from statistics import median
from urllib.parse import urlsplit

from cores import pin_all
from report import Figure
from stand import BEHAVIOURS, QUICK, Stand

IMAGE_BYTES = 5_000_000
ROUNDS = 40
LIMIT_BYTES = 32 * 1024 * 1024
PIECE = b"a" * 64 * 1024
ANSWER_S = 10.0
MIB = 1024 * 1024
PATH = "/v1/chat/completions"


def with_image(model: str) -> bytes:
    """Return a request with an image, whose base64 is as long as its name says."""
    image = base64.b64encode(random.Random(5).randbytes(IMAGE_BYTES * 3 // 4)).decode()
    parts = [
        {"type": "text", "text": "What is to be seen?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
    ]
    return json.dumps({"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": parts}]}).encode()


class Sender:
    """One kept-alive connection."""

    def __init__(self, url: str, key: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def send(self, body: bytes) -> float:
        """Return the seconds to the end of the answer; raise RuntimeError for a refusal."""
        start = time.perf_counter()
        self._connection.request("POST", PATH, body, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200 or b'"choices"' not in answer:
            raise RuntimeError(f"{response.status} {answer[:300]!r}")
        return time.perf_counter() - start


def refused(url: str, key: str, framing: str, pieces: Iterator[bytes]) -> tuple[int, float]:
    """Send a body until an answer is there; return the bytes that were sent of it, and the seconds that took.

    Raises RuntimeError when the answer is not 413. What lies in the kernel's buffers counts as sent.
    """
    place = urlsplit(url)
    lines = [f"POST {PATH} HTTP/1.1", f"Host: {place.netloc}", f"Authorization: Bearer {key}"]
    lines += ["Content-Type: application/json", framing, "", ""]
    sent, start = 0, time.perf_counter()
    with socket.create_connection((place.hostname, place.port), timeout=ANSWER_S) as connection:
        connection.sendall("\r\n".join(lines).encode())
        left = memoryview(next(pieces, b""))
        while time.perf_counter() < start + ANSWER_S:
            readable, writable, _ = select.select([connection], [connection] if left else [], [], ANSWER_S)
            if readable:
                break
            if writable:
                written = connection.send(left)
                sent += written
                left = left[written:] or memoryview(next(pieces, b""))
        taken = time.perf_counter() - start
        status = connection.recv(64 * 1024).split(b" ", 2)[1:2]
    if status != [b"413"]:
        raise RuntimeError(f"{framing}: answered with {status}")
    return sent, taken


def endless(chunked: bool) -> Iterator[bytes]:
    """Yield pieces of a body that has no end; those of a chunked one say how long they are."""
    while True:
        yield b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE


def measure(stand: Stand) -> list[Figure]:
    """Return what a large body costs, and how early one that is too large is refused."""
    pin_all(stand.running, stand.upstream)
    url, key = stand.running.url, stand.limited_key("bench-bodies")
    direct, through = Sender(stand.upstream_url, key), Sender(url, key)
    own, ours = with_image(BEHAVIOURS[QUICK]), with_image(QUICK)
    times = [(direct.send(own), through.send(ours)) for _ in range(ROUNDS + 5)][5:]
    direct_ms, through_ms = (median(each) * 1e3 for each in zip(*times, strict=True))
    announced = f"Content-Length: {2 * LIMIT_BYTES}"
    waiting = refused(url, key, announced, iter(()))
    hurried = [refused(url, key, announced, endless(chunked=False)) for _ in range(5)]
    unannounced = [refused(url, key, "Transfer-Encoding: chunked", endless(chunked=True)) for _ in range(3)]
    return [
        Figure("5 MB bodies, p50", through_ms, "ms", baseline=direct_ms),
        Figure("5 MB bodies, added, p50", through_ms - direct_ms, "ms", bar=30, at_most=True),
        Figure("413 for an announced body, nothing of it sent, after", waiting[1] * 1e3, "ms", bar=50, at_most=True),
        Figure("413 for an announced body, sent before it", max(hurried)[0] / MIB, "MiB", bar=8, at_most=True),
        Figure(
            "413 for a chunked body, sent beyond the limit", (max(unannounced)[0] - LIMIT_BYTES) / MIB, "MiB", 8, True
        ),
    ]
