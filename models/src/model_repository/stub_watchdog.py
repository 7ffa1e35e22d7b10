"""Kills a Triton server that has lost a backend process, so that its supervisor starts a whole one.

Triton 24.10 neither restarts the process of a Python model that dies nor reports the model unready: it stays "healthy"
and fails requests for ever. A program of its own, given the server's process id: it imports little and stays small.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PERIOD_S = 0.5
PR_SET_PDEATHSIG = 1
STUB = "triton_python_b"
"""What the kernel keeps of the name triton_python_backend_stub."""


def dead_stubs(server: int, stub: str = STUB) -> set[int]:
    """Return the process ids of backend processes that ended without the server having waited for them."""
    return {pid for pid in _children(server) if _name_and_state(pid) == (stub, "Z")}


def watch(server: int) -> None:
    """Watch until the server is gone. An unload leaves a dead process for a moment: only one seen twice counts."""
    before: set[int] = set()
    while os.getppid() == server:
        dead = dead_stubs(server)
        if dead & before:
            sys.stderr.write(f"watchdog: backend process {dead & before} of Triton has died: killing the server\n")
            os.kill(server, signal.SIGKILL)
            return
        before = dead
        time.sleep(PERIOD_S)


def _children(parent: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        try:
            found += map(int, listing.read_text("ascii").split())
        except OSError:  # the thread has just ended
            continue
    return found


def _name_and_state(pid: int) -> tuple[str, str]:
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").partition("(")[2].rpartition(")")
    except OSError:
        return "", ""
    return name, rest.split()[0]


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    watch(int(sys.argv[1]))
