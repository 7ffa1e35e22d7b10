"""Measures the platform against baselines of the same run: make bench, or `python platform-tests/bench NAME...`."""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import chats  # noqa: E402
import embeddings  # noqa: E402
import questions  # noqa: E402
from report import Figure, publish  # noqa: E402
from resources import family, memory_bytes  # noqa: E402
from stack_process import ROOT, RunningStack, running_stack  # noqa: E402

PORT_OFFSET = 20_000
UPSTREAM_PORT = 28_999
CATALOGUE = f"""
  - name: {questions.MODEL}
    task: generate
    description: The benchmarks' upstream
    openai: {{upstream: bench, model: bench}}
    context_tokens: 32768
    price: {{input_usd_per_million: 0.15, output_usd_per_million: 0.6}}
    queue: {{max_concurrent: 64, max_waiting: 256}}
    timeout_s: 20
upstreams:
  bench: {{base_url: "http://127.0.0.1:{UPSTREAM_PORT}/v1"}}
"""


@contextmanager
def stack() -> Iterator[tuple[RunningStack, float, int]]:
    """Start a stack with the fast upstream behind it; yield it, the seconds until it was ready, and the upstream."""
    upstream = subprocess.Popen([sys.executable, str(HERE / "upstream.py"), str(UPSTREAM_PORT)])
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            catalogue = Path(folder) / "catalogue.yaml"
            catalogue.write_text((ROOT / "deploy/local/catalogue.yaml").read_text().rstrip() + CATALOGUE)
            settings = {"PENSTOCK_CATALOGUE": str(catalogue), "PENSTOCK_TRACE_RATIO": "0.01"}
            start = time.perf_counter()
            with running_stack(Path(folder), PORT_OFFSET, settings) as running:
                yield running, time.perf_counter() - start, upstream.pid
    finally:
        upstream.terminate()
        upstream.wait()


def memory(running: RunningStack) -> float:
    """Return the memory of all processes together, in GB."""
    return memory_bytes(family(int(row["pid"]) for row in running.processes())) / 1e9


def measure_stack(running: RunningStack, ready_s: float, _: int) -> list[Figure]:
    """Return how long the start took and what the idle platform uses."""
    return [
        Figure("ready after", ready_s, "s", bar=20, at_most=True),
        Figure("memory of all processes, idle (PSS)", memory(running), "GB", bar=1.6, at_most=True),
    ]


def measure_questions(running: RunningStack, _: float, __: int) -> list[Figure]:
    """Return the figures of /v1/ask, and the memory after that load."""
    figures = asyncio.run(questions.measure(running.url, running.api_key, UPSTREAM_PORT))
    return [*figures, Figure("memory of all processes, after load (PSS)", memory(running), "GB", bar=1.6, at_most=True)]


def measure_embeddings(running: RunningStack, _: float, __: int) -> list[Figure]:
    """Return the figures of /v1/embeddings."""
    return asyncio.run(embeddings.measure(running.url, running.api_key))


def measure_gateway(running: RunningStack, _: float, upstream: int) -> list[Figure]:
    """Return the figures of /v1/chat/completions on one core. It comes last: it pins every process."""
    return asyncio.run(chats.measure(running, upstream, UPSTREAM_PORT))


TOPICS: dict[str, Callable[[RunningStack, float, int], list[Figure]]] = {
    "stack": measure_stack,
    "questions": measure_questions,
    "embeddings": measure_embeddings,
    "gateway": measure_gateway,
}


def main() -> int:
    """Measure the topics asked for, all of them when none is named; exit with 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="NAME", help=f"of {', '.join(TOPICS)}")
    chosen = parser.parse_args().topics or list(TOPICS)
    if unknown := [name for name in chosen if name not in TOPICS]:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(TOPICS)}")
    fine = True
    with stack() as (running, ready_s, upstream):
        for name in chosen:
            fine &= publish(ROOT / ".penstock" / "bench", name, TOPICS[name](running, ready_s, upstream))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
