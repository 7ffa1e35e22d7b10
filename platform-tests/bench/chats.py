"""Chat through the gateway on one core, with everything on, beside a bare pass-through in the same run.

All processes of Penstock share core 0; the upstream and the load share core 1. The key has limits and a budget, and the
model has a price, so that every call is authenticated, limited, reserved, settled and written down.
"""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

import aiohttp  # noqa: E402
from cores import OURS, pin, pin_all  # noqa: E402
from report import Figure  # noqa: E402
from resources import cpu_s, family  # noqa: E402
from stand import QUICK, Stand  # noqa: E402

SATURATING, BESIDE = 32, 16
MEASURED_S, ROUNDS, WINDOWS = 4.0, 3, 5
BELOW_SATURATION = 500.0
"""Chats a second at which latencies count: half of what one core has to do at least, whatever more it does.

It is not half of the most, as a chat that comes alone finds cold caches and costs nearly twice as much as one of many:
half of the most keeps the core 84 to 95% busy. What comes of that is shown, too.
"""
UV = ROOT / ".penstock" / "tools" / "uv" / "bin" / "uv"
PASSTHROUGH_ENV = ROOT / ".penstock" / "env" / "passthrough"
PASSTHROUGH = """
import aiohttp
session = None
async def app(scope, receive, send):
    global session
    if scope["type"] != "http":
        return
    if session is None:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    async with session.post(UPSTREAM, data=body, headers={"content-type": "application/json"}) as answer:
        payload, status = await answer.read(), answer.status
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": payload})
"""


class Chatter:
    """Asks for short chats as fast as its callers can, or at a pace."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._body = {
            "model": QUICK,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": "What is the capital of France, and since when?"}],
        }

    async def chat(self) -> float:
        """Return the seconds that one call took; raise RuntimeError for a refusal."""
        sent = time.perf_counter()
        async with self._session.post(self._url, json=self._body, headers=self._headers) as response:
            answer = await response.read()
            if response.status != 200 or b'"choices"' not in answer:
                raise RuntimeError(f"{self._url}: {response.status} {answer[:300]!r}")
        return time.perf_counter() - sent

    async def load(self, callers: int, seconds: float) -> tuple[float, list[float]]:
        """Return calls per second of callers who each ask again at once, and how long each call took, in seconds."""
        start, taken = time.perf_counter(), []

        async def call() -> None:
            while time.perf_counter() < start + seconds:
                taken.append(await self.chat())

        await asyncio.gather(*(call() for _ in range(callers)))
        return len(taken) / (time.perf_counter() - start), taken

    async def paced(self, callers: int, rate: float, seconds: float) -> list[float]:
        """Return how long calls took, in seconds, when callers ask at a rate together, evenly spread."""
        start, taken = time.perf_counter() + 0.05, []

        async def call(number: int) -> None:
            due = start + number / rate
            while due < start + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                taken.append(await self.chat())
                due += callers / rate

        await asyncio.gather(*(call(number) for number in range(callers)))
        return taken


@contextmanager
def passthrough(upstream_url: str) -> Iterator[str]:
    """Run the bare pass-through on core 0, in an environment of its own; yield its address."""
    python = PASSTHROUGH_ENV / "bin" / "python"
    if not (PASSTHROUGH_ENV / "bin" / "granian").exists():  # it comes last: one that was broken off is made anew
        subprocess.run([str(UV), "venv", "-q", "--clear", "--python", sys.executable, str(PASSTHROUGH_ENV)], check=True)
        packages = ["granian==2.8.7", "aiohttp==3.14.5", "uvloop==0.23.0"]
        subprocess.run([str(UV), "pip", "install", "-q", "--python", str(python), *packages], check=True)
    upstream = f"{upstream_url}/v1/chat/completions"
    (PASSTHROUGH_ENV / "passthrough.py").write_text(f"UPSTREAM = {upstream!r}\n{PASSTHROUGH}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python), "-m", "granian", "--interface", "asgi", "--loop", "uvloop", "--no-ws"]
    command += ["--log-level", "error", "--host", "127.0.0.1", "--port", str(port), "passthrough:app"]
    server = subprocess.Popen(command, cwd=PASSTHROUGH_ENV)
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        pin(family([server.pid]), OURS)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


async def measure(stand: Stand) -> list[Figure]:
    """Return chats per second and latencies."""
    pin_all(stand.running, stand.upstream)
    key = stand.limited_key("bench-chats")
    bare_rates, rates = [], []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        with passthrough(stand.upstream_url) as address:
            bare, chatter = Chatter(session, address, key), Chatter(session, stand.running.url, key)
            await bare.load(SATURATING, 1.0)
            await chatter.load(SATURATING, 2.0)
            for _ in range(ROUNDS):
                bare_rates.append((await bare.load(SATURATING, MEASURED_S))[0])
                rates.append((await chatter.load(SATURATING, MEASURED_S))[0])
        _, alone = await chatter.load(1, MEASURED_S)
        rate = median(rates)
        below = await _paced(stand, chatter, BELOW_SATURATION)
        half = await _paced(stand, chatter, rate / 2)
    return [
        Figure("chats on one core, 32 callers", rate, "1/s", bar=1000),
        Figure("  the same as a share of a bare pass-through", rate, "1/s", baseline=median(bare_rates)),
        Figure("chats on one core, 1 caller, p50", median(alone) * 1e3, "ms", bar=1.8, at_most=True),
        Figure(f"chats, 16 callers at {BELOW_SATURATION:g}/s, p99", median(below.p99_ms), "ms", bar=8, at_most=True),
        Figure(f"  the worst of {WINDOWS} times {MEASURED_S:g} s", max(below.p99_ms), "ms"),
        Figure("  the core is busy", below.busy * 100, "%"),
        Figure("chats, 16 callers at half the most, p99", median(half.p99_ms), "ms"),
        Figure("  the core is busy", half.busy * 100, "%"),
    ]


@dataclass(frozen=True, slots=True)
class Paced:
    """What chats at a pace took: the p99 of each window in milliseconds, and the share of the core that it cost."""

    p99_ms: list[float]
    busy: float


async def _paced(stand: Stand, chatter: Chatter, rate: float) -> Paced:
    processes = family(int(row["pid"]) for row in stand.running.processes())
    start_s, used_s = time.perf_counter(), cpu_s(processes)
    windows = [await chatter.paced(BESIDE, rate, MEASURED_S) for _ in range(WINDOWS)]
    busy = (cpu_s(processes) - used_s) / (time.perf_counter() - start_s)
    return Paced(list(map(_p99_ms, windows)), busy)


def _p99_ms(taken: list[float]) -> float:
    return quantiles(taken, n=100)[98] * 1e3
