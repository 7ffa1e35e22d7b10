"""The inference pool against the bars of its issue: `python platform-tests/bench/pool.py [PART...]`.

It starts its own Tritons and pools, and needs no stack. All of it takes about half an hour, most of which is the trace
of 10,000 requests for models that do not fit (`residency`).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import pool_advisor  # noqa: E402
import pool_neighbour  # noqa: E402
import pool_oip  # noqa: E402
import pool_overload  # noqa: E402
import pool_replicas  # noqa: E402
import pool_versions  # noqa: E402
import residency  # noqa: E402
import uvloop  # noqa: E402
from report import Figure, publish  # noqa: E402
from stack_process import ROOT  # noqa: E402

PARTS: dict[str, Callable[[], list[Figure]]] = {
    "oip": pool_oip.measure,
    "neighbour": pool_neighbour.measure,
    "replicas": pool_replicas.measure,
    "overload": pool_overload.measure,
    "versions": pool_versions.measure,
    "advisor": pool_advisor.measure,
    "residency": residency.measure,
}


def measure() -> list[Figure]:
    """Return the figures of every part."""
    return [figure for part in PARTS.values() for figure in part()]


def main() -> int:
    """Measure the parts asked for, all of them when none is named; exit with 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--requests", type=int, default=residency.REQUESTS, help="length of the trace of `residency`")
    asked = parser.parse_args()
    chosen = asked.parts or list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    uvloop.install()
    fine = True
    for name in chosen:
        figures = residency.measure(asked.requests) if name == "residency" else PARTS[name]()
        fine &= publish(ROOT / ".penstock" / "bench", f"pool-{name}", figures)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
