"""Questions per second and latency of /v1/ask at 2,000 chunks, with generation by a fast OpenAI-compatible upstream."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

import aiohttp
from corpus import Passage, passages
from report import Figure

CHUNKS = 2_000
CALLERS = 16
WARM_UP_S = 3.0
MEASURED_S = 12.0
RUNS = 3
KNOWLEDGE_BASE = "bench"
MODEL = "bench-upstream"
OPENINGS = ("", "Say:", "Tell me:", "Explain:", "Now:")


class Asker:
    """Asks questions through the gateway as fast as its callers can."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self.cited: list[bool] = []

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send JSON, return JSON; raise RuntimeError for a refusal."""
        async with self._session.post(self._url + path, json=body, headers=self._headers) as response:
            answer: dict[str, Any] = await response.json()
            if response.status != 200:
                raise RuntimeError(f"{path}: {response.status} {answer}")
            return answer

    async def ingest(self, corpus: Sequence[Passage]) -> float:
        """Take the corpus in; return documents per second."""
        start = time.perf_counter()
        for position in range(0, len(corpus), 200):
            part = corpus[position : position + 200]
            documents = [{"id": p.document_id, "media_type": "text/plain", "text": p.text} for p in part]
            await self.post(f"/v1/knowledge-bases/{KNOWLEDGE_BASE}/documents", {"documents": documents})
        return len(corpus) / (time.perf_counter() - start)

    async def load(self, questions: Sequence[str], callers: int, seconds: float) -> list[float]:
        """Ask for some seconds from so many callers; return each question's seconds."""
        source = itertools.cycle(questions)
        end = time.perf_counter() + seconds
        taken: list[float] = []

        async def call() -> None:
            while (start := time.perf_counter()) < end:
                body = {"knowledge_base": KNOWLEDGE_BASE, "question": next(source), "model": MODEL}
                answer = await self.post("/v1/ask", body)
                if answer["rung"] != "chosen_model":
                    raise RuntimeError(f"degraded: {answer['degradations']}")
                self.cited.append(bool(answer["citations"]))
                taken.append(time.perf_counter() - start)

        await asyncio.gather(*(call() for _ in range(callers)))
        return taken


async def upstream_rate(session: aiohttp.ClientSession, upstream_url: str, questions: Sequence[str]) -> float:
    """Return the rate at which the same callers get answers from the upstream itself: the ceiling."""
    url = f"{upstream_url}/v1/chat/completions"
    end = time.perf_counter() + MEASURED_S / RUNS
    source = itertools.cycle(questions)
    answered = 0

    async def call() -> None:
        nonlocal answered
        while time.perf_counter() < end:
            body = {"model": "bench", "messages": [{"role": "user", "content": next(source)}]}
            async with session.post(url, json=body) as response:
                await response.read()
            answered += 1

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return answered * RUNS / MEASURED_S


async def measure(url: str, key: str, upstream_url: str) -> list[Figure]:
    """Return throughput at 16 callers and latency at one; every question is asked for the first time."""
    corpus = passages(CHUNKS)
    fresh = iter(
        [f"{variant} {p.question}" for variant in ("", "Say:", "Tell me:", "Explain:", "Now:") for p in corpus]
    )
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        asker = Asker(session, url, key)
        ingested = await asker.ingest(corpus)
        await asker.load(list(itertools.islice(fresh, 600)), CALLERS, WARM_UP_S)
        rates = []
        for _ in range(RUNS):
            taken = await asker.load(list(itertools.islice(fresh, 2_400)), CALLERS, MEASURED_S / RUNS)
            rates.append(len(taken) * RUNS / MEASURED_S)
        ceiling = await upstream_rate(session, upstream_url, [passage.question for passage in corpus])
        alone = await asker.load(list(itertools.islice(fresh, 400)), 1, 5.0)
    return [
        Figure("ingest, documents of one chunk", ingested, "1/s"),
        Figure("questions, 16 callers", median(rates), "1/s", bar=150),
        Figure("questions, of the upstream's own rate", median(rates), "1/s", baseline=ceiling),
        Figure("questions, 1 caller, p50", median(alone) * 1e3, "ms", bar=25, at_most=True),
        Figure("questions, share answered with a verified citation", sum(asker.cited) / len(asker.cited), "", bar=0.95),
        Figure("questions, 1 caller, p99", quantiles(alone, n=100)[98] * 1e3, "ms"),
    ]
