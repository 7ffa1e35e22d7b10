"""Two hundred streams at once, each of fifty tokens a second: what is lost, what is late, and what a start costs.

The upstream writes into each token its number and the moment it was sent, and the moment its request came; all clocks
are the monotonic one of this machine. The same load goes to the upstream directly first: what is late there is the
upstream's and the callers' own doing. As one stream of a caller ends, the next begins, so starts are spread evenly,
and at random moments between two tokens: else all the tokens of all the streams would come at once.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from urllib.parse import urlsplit

import uvloop
from cores import OURS, pin_all
from report import Figure
from resources import cpu_s, family
from stand import PACED, Stand
from stillness import stillness
from upstream import TOKENS_PER_S

CALLERS = 200
TOKENS = 200
STREAM_S = TOKENS / TOKENS_PER_S
DIRECT_S, MEASURED_S, WINDOWS = 8.0, 40.0, 5
LATE_NS = 50_000_000
STALLED_S = 20.0
MOST_US_PER_TOKEN = 50
"""Processor time of gateway and inference together that leaves a core with all the streams half idle."""
TOKEN = re.compile(rb"@(\d+):(\d+):(\d+);")
LONGEST_TOKEN = 64
DONE = b"data: [DONE]"
END = b"0\r\n\r\n"


@dataclass(slots=True)
class Tally:
    """What became of the tokens: times in nanoseconds, of a token, or of a start with the moment of its first token."""

    from_ns: int
    until_ns: int
    took_ns: list[int] = field(default_factory=list)
    started_ns: list[tuple[int, int]] = field(default_factory=list)
    tokens: int = 0
    lost: int = 0
    broken: list[str] = field(default_factory=list)

    def counts(self, moment_ns: int) -> bool:
        """Say whether a moment is measured."""
        return self.from_ns <= moment_ns < self.until_ns

    def starts_ns(self, windows: int = 1) -> list[list[int]]:
        """Return how long starts took, of each of so many parts of the time."""
        found: list[list[int]] = [[] for _ in range(windows)]
        for moment_ns, took_ns in self.started_ns:
            found[(moment_ns - self.from_ns) * windows // (self.until_ns - self.from_ns)].append(took_ns)
        return found


class Caller(asyncio.Protocol):
    """One connection, with one stream after the other."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self._request, self._tally = request, tally
        self._kept = b""
        self._next = 0
        self._asked_ns = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the first stream."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        """Count what was under way as broken, unless it is over."""
        if not self.ended.done():
            self._broken(f"the connection was lost: {error}")

    def close(self) -> None:
        """Leave."""
        if not self.ended.done():
            self.ended.set_result(None)
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take the tokens that came."""
        now_ns = time.monotonic_ns()
        text = self._kept + data
        rest = 0
        for token in TOKEN.finditer(text):
            rest = token.end()
            self._take(int(token[1]), int(token[2]), int(token[3]), now_ns)
        if not rest and not self._next and not text.startswith(b"HTTP/1.1 200"):
            self._broken(text[:200].decode(errors="replace"))
            return
        self._kept = text[max(rest, len(text) - LONGEST_TOKEN) :]
        if text.endswith(END) and DONE in text:
            self._end(now_ns)

    def _ask(self) -> None:
        self._kept, self._next = b"", 0
        self._asked_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def _take(self, number: int, sent_ns: int, received_ns: int, now_ns: int) -> None:
        tally = self._tally
        tally.tokens += 1
        if tally.counts(sent_ns):
            tally.lost += number - self._next
            tally.took_ns.append(now_ns - sent_ns)
            if not number:
                tally.started_ns.append((sent_ns, (now_ns - self._asked_ns) - (sent_ns - received_ns)))
        self._next = number + 1

    def _end(self, now_ns: int) -> None:
        if self._tally.counts(now_ns):
            self._tally.lost += TOKENS - self._next
        if now_ns >= self._tally.until_ns:
            self.close()
        else:
            self._ask()

    def _broken(self, what: str) -> None:
        self._tally.broken.append(what)
        self.close()


def request(url: str, key: str) -> bytes:
    """Return the request for one stream, as it is written."""
    message = {"role": "user", "content": "Count slowly."}
    body = json.dumps({"model": PACED, "stream": True, "max_tokens": TOKENS, "messages": [message]}).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {urlsplit(url).netloc}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def load(url: str, key: str, measured_s: float) -> Tally:
    """Keep the streams going, and measure once all of them have begun and the first have begun again."""
    warm_s = 2 * STREAM_S
    start_ns = time.monotonic_ns()
    from_ns = start_ns + int(warm_s * 1e9)
    tally = Tally(from_ns, from_ns + int(measured_s * 1e9))
    asked, place = request(url, key), urlsplit(url)
    loop = asyncio.get_running_loop()
    callers: list[Caller] = []
    phases = random.Random(CALLERS)
    for number in range(CALLERS):
        due_s = number * STREAM_S / CALLERS + phases.random() / TOKENS_PER_S
        await asyncio.sleep(due_s - (time.monotonic_ns() - start_ns) / 1e9)
        _, caller = await loop.create_connection(lambda: Caller(asked, tally), place.hostname, place.port)
        callers.append(caller)
    left_s = (tally.until_ns - time.monotonic_ns()) / 1e9
    await asyncio.wait([caller.ended for caller in callers], timeout=left_s + STREAM_S + STALLED_S)
    for caller in callers:
        if not caller.ended.done():
            tally.broken.append("a stream did not end")
            caller.close()
    return tally


def at(values: Sequence[int], share: float) -> float:
    """Return a quantile, in milliseconds."""
    ranked = sorted(values)
    return ranked[min(int(len(ranked) * share), len(ranked) - 1)] / 1e6


async def _measure(stand: Stand) -> list[Figure]:
    pin_all(stand.running, stand.upstream)
    key = stand.limited_key("bench-streams")
    direct = await load(stand.upstream_url, key, DIRECT_S)
    services = {name: family([stand.running.pid(name)]) for name in ("gateway", "inference")}
    used_s = {name: cpu_s(processes) for name, processes in services.items()}
    with stillness(*OURS) as pauses:
        through = await load(stand.running.url, key, MEASURED_S)
    still_ns = [length_ns for moment_ns, length_ns in pauses if through.counts(moment_ns)]
    cost_s = {name: cpu_s(processes) - used_s[name] for name, processes in services.items()}
    for what in sorted(set(through.broken))[:3]:
        print(f"  {what}")
    wanted = CALLERS * TOKENS_PER_S * MEASURED_S
    late = sum(took > LATE_NS for took in through.took_ns)
    (starts,), (own_starts,) = through.starts_ns(), direct.starts_ns()
    own_ms = at(own_starts, 0.99)
    added_ms = sorted(at(window, 0.99) - own_ms for window in through.starts_ns(WINDOWS))
    return [
        Figure(
            "streams, tokens delivered", len(through.took_ns) / MEASURED_S, "1/s", 0.99, baseline=wanted / MEASURED_S
        ),
        Figure("streams, broken or refused", len(through.broken), "", 0, at_most=True),
        Figure("streams, tokens lost", through.lost, "", 0, at_most=True),
        Figure("streams, tokens later than 50 ms", late, "", 0, at_most=True),
        Figure("  the same without the platform", sum(took > LATE_NS for took in direct.took_ns), ""),
        Figure("  this core stood still for, longest", max(still_ns, default=0) / 1e6, "ms"),
        Figure("  and in all", sum(still_ns) / 1e6, "ms"),
        Figure("streams, token late by, p50", at(through.took_ns, 0.5), "ms", baseline=at(direct.took_ns, 0.5)),
        Figure("streams, token late by, p99", at(through.took_ns, 0.99), "ms", baseline=at(direct.took_ns, 0.99)),
        Figure("streams, token late by, most", at(through.took_ns, 1.0), "ms", baseline=at(direct.took_ns, 1.0)),
        Figure("streams, added to the first token, p50", at(starts, 0.5) - at(own_starts, 0.5), "ms"),
        Figure("streams, added to the first token, p99", at(starts, 0.99) - own_ms, "ms", 5, at_most=True),
        Figure(f"  the median of {WINDOWS} times {MEASURED_S / WINDOWS:.0f} s", median(added_ms), "ms"),
        Figure(f"  the worst of {WINDOWS} times {MEASURED_S / WINDOWS:.0f} s", added_ms[-1], "ms"),
        Figure("  first token without the platform, p99", own_ms, "ms"),
        *(
            Figure(f"streams, processor time per token, {name}", seconds / max(1, through.tokens) * 1e6, "us")
            for name, seconds in cost_s.items()
        ),
        Figure(
            "  together", sum(cost_s.values()) / max(1, through.tokens) * 1e6, "us", MOST_US_PER_TOKEN, at_most=True
        ),
    ]


def measure(stand: Stand) -> list[Figure]:
    """Return what is lost and late of many streams at once, and what the platform adds to their starts."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(stand))
