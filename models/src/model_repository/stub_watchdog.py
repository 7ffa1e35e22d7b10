"""Kills a Triton server that has lost a backend process, and the backend processes that have lost their server.

Triton 24.10 neither restarts the process of a Python model that dies nor reports the model unready: it stays "healthy"
and fails requests for ever; killed, its supervisor starts a whole one. And when it is killed itself, some of its
backend processes wait for ever for what it will never say, with 100 MB each. A program of its own, given the server's
process id: it imports little and stays small.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PERIOD_S = 0.5
PR_SET_PDEATHSIG = 1
PARENT_GONE = signal.SIGUSR1
MOST_BYTES = 64 * 1024
NICENESS = 19
"""A look takes over a millisecond, on a core that callers wait for."""

STUB = "triton_python_b"
"""What the kernel keeps of the name triton_python_backend_stub."""

SERVER_ARGUMENT = 5
"""Where the command line of a backend process has the process id of its server."""


def dead_stubs(server: int, stub: str = STUB) -> set[int]:
    """Return the process ids of backend processes that ended without the server having waited for them."""
    return {pid for pid in _children(server) if _name_and_state(pid) == (stub, "Z")}


def watch(server: int, stub: str = STUB) -> None:
    """Watch until the server is gone, and end what it leaves.

    The kernel hands a child on from thread to thread of a server that is being killed, with the signal each time: it
    wakes this, and is never more than a reason to ask who the parent is. An unload leaves a dead process for a moment:
    only one seen twice counts.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {PARENT_GONE})
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, PARENT_GONE)
    before: set[int] = set()
    while os.getppid() == server:
        if signal.sigtimedwait({PARENT_GONE}, PERIOD_S):
            continue
        dead = dead_stubs(server, stub)
        if dead & before:
            sys.stderr.write(f"watchdog: backend process {dead & before} of Triton has died: killing the server\n")
            os.kill(server, signal.SIGKILL)
        before = dead
    _end_left(server, stub)
    time.sleep(PERIOD_S)  # the server may have forked one that has only now become a backend process
    _end_left(server, stub)


def _end_left(server: int, stub: str) -> None:
    """Kill the backend processes whose command line names the server."""
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):  # noqa: PTH208
        if _name_and_state(pid)[0] == stub and _server_of(pid) == str(server):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _server_of(pid: int) -> str:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace").split("\0")
    except OSError:
        return ""
    return arguments[SERVER_ARGUMENT] if len(arguments) > SERVER_ARGUMENT else ""


def _children(parent: int) -> list[int]:
    """Return the children of each thread; of plain calls, as there are over two hundred threads."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{parent}/task")  # noqa: PTH208
    except OSError:
        return found
    for thread in threads:
        try:
            listing = os.open(f"/proc/{parent}/task/{thread}/children", os.O_RDONLY)
        except OSError:  # the thread has just ended
            continue
        with contextlib.suppress(OSError):
            found += map(int, os.read(listing, MOST_BYTES).split())
        os.close(listing)
    return found


def _name_and_state(pid: int) -> tuple[str, str]:
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").partition("(")[2].rpartition(")")
    except OSError:
        return "", ""
    return name, rest.split()[0]


if __name__ == "__main__":
    os.nice(NICENESS)
    watch(int(sys.argv[1]))
