"""Measures the platform against baselines of the same run: make bench, or `python platform-tests/bench NAME...`."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import bodies  # noqa: E402
import chats  # noqa: E402
import embeddings  # noqa: E402
import ledger  # noqa: E402
import overload  # noqa: E402
import pool  # noqa: E402
import questions  # noqa: E402
import streams  # noqa: E402
import uvloop  # noqa: E402
from report import Figure, publish  # noqa: E402
from resources import family, memory_bytes  # noqa: E402
from stack_process import ROOT  # noqa: E402
from stand import Stand, stand  # noqa: E402

PORT_OFFSET = 20_000


def _run(measuring: Coroutine[Any, Any, list[Figure]]) -> list[Figure]:
    """Measure in the loop that costs the load's side least: it shares the processor with what it measures."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measuring)


def memory(stand: Stand) -> float:
    """Return the memory of all processes together, in GB."""
    return memory_bytes(family(int(row["pid"]) for row in stand.running.processes())) / 1e9


def measure_stack(stand: Stand) -> list[Figure]:
    """Return how long the start took and what the idle platform uses."""
    return [
        Figure("ready after", stand.ready_s, "s", bar=20, at_most=True),
        Figure("memory of all processes, idle (PSS)", memory(stand), "GB", bar=1.6, at_most=True),
    ]


def measure_questions(stand: Stand) -> list[Figure]:
    """Return the figures of /v1/ask, and the memory after that load."""
    figures = _run(questions.measure(stand.running.url, stand.running.api_key, stand.upstream_url))
    return [*figures, Figure("memory of all processes, after load (PSS)", memory(stand), "GB", bar=1.6, at_most=True)]


def measure_embeddings(stand: Stand) -> list[Figure]:
    """Return the figures of /v1/embeddings."""
    return _run(embeddings.measure(stand.running.url, stand.running.api_key))


def measure_gateway(stand: Stand) -> list[Figure]:
    """Return the figures of /v1/chat/completions on one core; it pins every process, as those after it do."""
    return _run(chats.measure(stand))


TOPICS: dict[str, Callable[[Stand], list[Figure]]] = {
    "stack": measure_stack,
    "questions": measure_questions,
    "embeddings": measure_embeddings,
    "gateway": measure_gateway,
    "streams": streams.measure,
    "bodies": bodies.measure,
    "overload": overload.measure,
    "ledger": ledger.measure,
    "pool": lambda _: pool.measure(),
}
LONG = ("pool",)
"""Topics that are measured only when they are named; this one starts servers of its own and takes half an hour."""


def main() -> int:
    """Measure the topics asked for, all but the long ones when none is named; exit with 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="NAME", help=f"of {', '.join(TOPICS)}")
    parser.add_argument("--port-offset", type=int, default=PORT_OFFSET, help="moves every port of the stack")
    asked = parser.parse_args()
    chosen = asked.topics or [name for name in TOPICS if name not in LONG]
    if unknown := [name for name in chosen if name not in TOPICS]:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(TOPICS)}")
    fine = True
    with stand(asked.port_offset) as running:
        for name in chosen:
            fine &= publish(ROOT / ".penstock" / "bench", name, TOPICS[name](running))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
