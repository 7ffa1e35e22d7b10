"""A fixed load for a long time, every user and stranger new: does memory grow? `python platform-tests/bench/soak.py`.

Chats, streams and embeddings come at a steady rate under keys that are made, used and revoked meanwhile; beside them
strangers knock, each with a key that nobody has, or with a user and a model that nobody has heard of. The memory of
each process is noted every ten seconds; its slope is that of a least-squares line through what comes after the warm-up.
Resident memory is what the bar is about. A system that takes back pages of files and gives them again moves it, too; a
process's own memory (anonymous pages, those swapped out included) grows for no such reason.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import aiohttp  # noqa: E402
from report import Figure, publish  # noqa: E402
from resources import family  # noqa: E402
from stack_process import ROOT  # noqa: E402
from stand import LIMITS, QUICK, Stand, stand  # noqa: E402

FOLDER = ROOT / ".penstock" / "bench"
PORT_OFFSET = 20_000
EVERY_S = 10.0
WRITTEN_EVERY = 6
LONGEST_WARM_S = 600.0
KEYS_IN_USE = 500
KEYS_PER_TENANT = 20
MOST_AT_ONCE = 200
TIMEOUT_S = 30
SMALL_CACHE: Final = {"EMBEDDING_CACHE_BYTES": str(6 * 1024 * 1024)}
"""Full within the warm-up: of its own bound a cache makes no slope, but it takes an hour to come there."""

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


@dataclass(slots=True)
class Soak:
    """What is asked, and what came of it. `strangers` knock in the whole time, half of them without a key."""

    stand: Stand
    session: aiohttp.ClientSession
    until_s: float
    keys: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=KEYS_IN_USE))
    answered: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_AT_ONCE))

    async def chat(self, number: int) -> None:
        """Ask for an answer, every fourth time piece by piece."""
        message = {"role": "user", "content": f"What is {number} of {secrets.token_hex(4)}?"}
        body = {"model": QUICK, "user": f"user-{number}", "max_tokens": 32, "messages": [message]}
        more = {"Idempotency-Key": f"chat-{number}"}
        await self._ask("chat", CHAT, body | {"stream": number % 4 == 0}, 200, headers=more)

    async def embed(self, number: int) -> None:
        """Have a text encoded that was not encoded before."""
        body = {"model": "minilm-l6", "user": f"reader-{number}", "input": f"text {number} of {secrets.token_hex(4)}"}
        await self._ask("embeddings", EMBEDDINGS, body, 200)

    async def knock(self, number: int) -> None:
        """Come with a key that nobody has, or else with a user and a model that nobody has heard of."""
        body = {
            "model": f"model-{number}",
            "user": f"stranger-{number}",
            "messages": [{"role": "user", "content": "?"}],
        }
        if number % 2:
            await self._ask("known key, unknown model", CHAT, body, 404)
        else:
            key = f"pst_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
            await self._ask("unknown key", CHAT, body, 401, key=key)

    async def renew(self, number: int) -> None:
        """Make a key, of a new tenant now and then, and revoke one that has been in use for long."""
        tenant = f"soak-{number // KEYS_PER_TENANT}"
        if number % KEYS_PER_TENANT == 0:
            await self._administer("/v1/admin/tenants", {"id": tenant, "limits": LIMITS})
        oldest = self.keys[0] if len(self.keys) == KEYS_IN_USE else None
        asked = {"tenant": tenant, "project": "default", "name": f"key-{number}", "role": "member"}
        made = await self._administer("/v1/admin/keys", asked)
        if made:
            self.keys.append((made["public_id"], made["key"]))
        if made and oldest:
            await asyncio.sleep(1.0)
            await self._administer(f"/v1/admin/keys/{oldest[0]}/revoke", {})

    async def steadily(self, act: Callable[[int], Awaitable[None]], rate: float, first: int = 0) -> None:
        """Do something at a rate until the end, whether or not what was done before has ended."""
        start, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            while rate and (due := start + number / rate) < self.until_s:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self.room.acquire()
                tasks.create_task(self._do(act, first + number))
                number += 1

    async def _do(self, act: Callable[[int], Awaitable[None]], number: int) -> None:
        try:
            await act(number)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.unexpected[type(error).__name__] += 1
        finally:
            self.room.release()

    async def _ask(self, what: str, path: str, body: dict[str, Any], status: int, **more: Any) -> None:
        key = more.get("key") or random.choice(self.keys)[1]
        headers = {"Authorization": f"Bearer {key}", **more.get("headers", {})}
        async with self.session.post(self.stand.running.url + path, json=body, headers=headers) as response:
            answer = await response.read()
        if response.status == status and not (body.get("stream") and b"[DONE]" not in answer):
            self.answered[what] += 1
        else:
            self.unexpected[f"{what}: {response.status} {error_code(answer)}"] += 1

    async def _administer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.stand.running.admin_key}"}
        async with self.session.post(self.stand.running.url + path, json=body, headers=headers) as response:
            said: dict[str, Any] = await response.json()
        if response.status == 200:
            self.answered["administration"] += 1
            return said
        self.unexpected[f"administration: {response.status}"] += 1
        return {}


def error_code(answer: bytes) -> str:
    """Return what an error says of itself in one word."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(answer)["error"]["code"])
    return ""


@dataclass(slots=True)
class Memory:
    """The memory of each process with its descendants, in MiB, by seconds since the start."""

    stand: Stand
    processes: dict[str, int] = field(default_factory=dict)
    at_s: list[float] = field(default_factory=list)
    resident: dict[str, list[float]] = field(default_factory=dict)
    own: dict[str, list[float]] = field(default_factory=dict)
    restarts: int = 0

    async def watch(self, until_s: float, told: Callable[[], None]) -> None:
        """Note it every ten seconds; `told` is called each minute."""
        start_s = time.monotonic()
        self._find()
        while time.monotonic() < until_s:
            await asyncio.sleep(EVERY_S)
            if not all(Path(f"/proc/{process}").exists() for process in self.processes.values()):  # noqa: ASYNC240
                await asyncio.to_thread(self._find)
            self.at_s.append(time.monotonic() - start_s)
            for name, process in self.processes.items():
                resident, own = memory_mib(process)
                self.resident[name].append(resident)
                self.own[name].append(own)
            if len(self.at_s) % WRITTEN_EVERY == 0:
                told()

    def _find(self) -> None:
        found = {row["name"]: int(row["pid"]) for row in self.stand.running.processes() if row["pid"]}
        self.restarts += sum(self.processes.get(name, process) != process for name, process in found.items())
        self.processes.update(found)
        for name in found:
            self.resident.setdefault(name, [])
            self.own.setdefault(name, [])

    def slopes(self, kind: dict[str, list[float]], warm_s: float) -> dict[str, float]:
        """Return MiB a minute of each process after a warm-up."""
        kept = [index for index, at_s in enumerate(self.at_s) if at_s >= warm_s]
        minutes = [self.at_s[index] / 60 for index in kept]
        return {name: slope(minutes, [values[index] for index in kept]) for name, values in kind.items()}


def memory_mib(process: int) -> tuple[float, float]:
    """Return the resident memory of a process with its descendants, and the part of it that is its own, in MiB."""
    resident = own = 0
    for member in family([process]):
        with suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
            told = {
                name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.strip()
            }
            resident += int(told.get("VmRSS", 0))
            own += int(told.get("RssAnon", 0)) + int(told.get("VmSwap", 0))
    return resident / 1024, own / 1024


def slope(places: list[float], values: list[float]) -> float:
    """Return the slope of the line with the least squares; 0 for fewer than two points."""
    if len(places) < 2:
        return 0.0
    middle, mean = sum(places) / len(places), sum(values) / len(values)
    rise = sum((place - middle) * (value - mean) for place, value in zip(places, values, strict=True))
    return rise / sum((place - middle) ** 2 for place in places)


@asynccontextmanager
async def soaking(stand: Stand, minutes: float) -> AsyncIterator[Soak]:
    """Open a session, with the first keys made."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as session:
        soak = Soak(stand, session, time.monotonic() + minutes * 60)
        for number in range(KEYS_PER_TENANT):
            await soak.renew(number)
        if len(soak.keys) < KEYS_PER_TENANT:
            raise RuntimeError(f"no keys: {dict(soak.unexpected)}")
        yield soak


def figures(soak: Soak, memory: Memory, warm_s: float) -> list[Figure]:
    """Return how memory grew, and what was answered."""
    grown, own = memory.slopes(memory.resident, warm_s), memory.slopes(memory.own, warm_s)
    return [
        *(Figure(f"soak, memory of {name}, slope", each, "MiB/min", 1, at_most=True) for name, each in grown.items()),
        *(Figure(f"soak, own memory of {name}, slope", each, "MiB/min", 1, at_most=True) for name, each in own.items()),
        *(Figure(f"soak, memory of {name}, at the end", memory.resident[name][-1], "MiB") for name in grown),
        *(Figure(f"soak, {what}", count, "") for what, count in sorted(soak.answered.items())),
        *(Figure(f"soak, unexpected: {what}", count, "") for what, count in soak.unexpected.items()),
        Figure("soak, unexpected answers", sum(soak.unexpected.values()), "", 0, at_most=True),
        Figure("soak, processes that were started again", memory.restarts, "", 0, at_most=True),
    ]


async def measure(stand: Stand, asked: argparse.Namespace) -> list[Figure]:
    """Keep the load up for as long as asked."""
    seconds = asked.minutes * 60
    warm_s = min(seconds / 4, LONGEST_WARM_S)
    memory = Memory(stand)
    async with soaking(stand, asked.minutes) as soak:

        def keep() -> None:
            told = {"at_s": memory.at_s, "resident_mib": memory.resident, "own_mib": memory.own}
            told |= {"answered": soak.answered, "unexpected": soak.unexpected, "restarts": memory.restarts}
            (FOLDER / "soak-samples.json").write_text(json.dumps(told, indent=1))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(memory.watch(soak.until_s, keep))
            tasks.create_task(soak.steadily(soak.chat, asked.rate * 0.75))
            tasks.create_task(soak.steadily(soak.embed, asked.rate * 0.25))
            tasks.create_task(soak.steadily(soak.knock, 2 * asked.strangers / seconds))
            tasks.create_task(soak.steadily(soak.renew, asked.keys / seconds, KEYS_PER_TENANT))
        keep()
        return figures(soak, memory, warm_s)


def main() -> int:
    """Start a stack, soak it, stop it; exit with 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long")
    parser.add_argument("--rate", type=float, default=40, help="chats and embeddings a second")
    parser.add_argument("--strangers", type=int, default=1_000_000, help="unknown keys, and as many unknown users")
    parser.add_argument("--keys", type=int, default=5_000, help="keys that are made meanwhile")
    parser.add_argument("--port-offset", type=int, default=PORT_OFFSET, help="moves every port of the stack")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with stand(asked.port_offset, SMALL_CACHE) as running:
        measured = asyncio.run(measure(running, asked))
    return 0 if publish(FOLDER, "soak", measured) else 1


if __name__ == "__main__":
    sys.exit(main())
