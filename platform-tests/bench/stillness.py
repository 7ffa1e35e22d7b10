"""Tells when a core was there for nobody, as a virtual machine's is when its host has other things to do.

A process with real-time priority goes before every other one; that it was late to look at the clock has no other cause.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PERIOD_S = 0.005
LEAST_NS = 5_000_000


@contextmanager
def stillness(core: int) -> Iterator[list[tuple[int, int]]]:
    """Yield a list that has in the end when a core stood still, and for how long, in ns of the monotonic clock.

    Raises RuntimeError where no process may have real-time priority.
    """
    found: list[tuple[int, int]] = []
    command = [sys.executable, __file__, str(core)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as watcher:
        yield found
        told, _ = watcher.communicate()
    if watcher.returncode:
        raise RuntimeError(f"core {core} could not be watched: it takes the right to real-time priority")
    found.extend((moment_ns, length_ns) for moment_ns, length_ns in json.loads(told))


def watch(core: int) -> list[tuple[int, int]]:
    """Look at the clock until the standard input ends."""
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    found = []
    last_ns = time.monotonic_ns()
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        now_ns = time.monotonic_ns()
        if (still_ns := now_ns - last_ns - int(PERIOD_S * 1e9)) >= LEAST_NS:
            found.append((last_ns, still_ns))
        last_ns = now_ns
    return found


if __name__ == "__main__":
    print(json.dumps(watch(int(sys.argv[1]))))
