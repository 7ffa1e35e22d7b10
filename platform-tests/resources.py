"""Memory and processor time of a stack's processes, read from /proc."""

import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def family(pids: Iterable[int]) -> set[int]:
    """Return the processes with all their descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    members = set(pids)
    while grown := {pid for pid, parent in parents.items() if parent in members and pid not in members}:
        members |= grown
    return members


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor seconds the processes have used so far, user and system."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return total


def memory_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of the processes, each shared page counted in proportion (PSS)."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
    return total
