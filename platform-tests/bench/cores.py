"""Gives the platform one core and its upstream and callers the other, so that neither takes time from the other."""

import os
from collections.abc import Iterable
from pathlib import Path

from resources import family
from stack_process import RunningStack

OURS, THEIRS = {0}, {1}


def pin(processes: Iterable[int], cores: set[int]) -> None:
    """Keep every thread of some processes on some cores; what they start later inherits it."""
    for process in processes:
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


def pin_all(running: RunningStack, upstream: int) -> None:
    """Pin all processes of a stack, the upstream, and this process; it may be done again."""
    pin(family(int(row["pid"]) for row in running.processes()), OURS)
    pin([upstream, os.getpid()], THEIRS)
