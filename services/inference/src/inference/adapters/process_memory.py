"""Measures what a Triton server on this machine holds in main memory, from what the kernel tells of its processes."""

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from inference.core.residency_ports import Memory

PROC: Final = Path("/proc")
LISTENING: Final = "0A"
STUB: Final = "triton_python_backend_stub"
SHORT_BYTES: Final = 64 * 1024
MODEL_FILE: Final = re.compile(r"/([^/]+)/\d+/[^/]+$")
"""The first argument of a backend process: the model's file in the repository."""


class ProcessMemory:
    """The resident memory of the server that listens on a local port, its backend processes included.

    A Python model has processes of its own, so it is measured by itself; the models of other backends are not told
    apart. Pages that processes share are counted in each of them: it is rather too much than too little.
    """

    kinds: Final = frozenset({"CPU", "CPU_PINNED"})

    def __init__(self, address: str, proc: Path = PROC) -> None:
        """Take the address at which the server listens."""
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._proc = proc
        self._server: tuple[int, str] | None = None

    async def read(self) -> Memory | None:
        """Return what it holds now, or None where the server is not on this machine or not ours to look at."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Memory | None:
        pid = self._found()
        if pid is None:
            return None
        used, models = self._resident_bytes(pid), dict[str, int]()
        for child in self._descendants(pid):
            size = self._resident_bytes(child)
            used += size
            model = self._model_of(child)
            if model:
                models[model] = models.get(model, 0) + size
        return Memory(used, models) if used else None

    def _found(self) -> int | None:
        """Return the server's process id; looked for again once that process is another one."""
        if self._server is not None:
            pid, started = self._server
            if self._started(pid) == started:
                return pid
        pid_ = self._listener()
        self._server = (pid_, self._started(pid_)) if pid_ is not None else None
        return pid_

    def _listener(self) -> int | None:
        inodes = self._inodes() if is_local(self._host) else set()
        if not inodes:
            return None
        for folder in self._proc.glob("[0-9]*"):
            if any(target in inodes for target in _targets(folder / "fd")):
                return int(folder.name)
        return None

    def _inodes(self) -> set[str]:
        """Return the sockets that listen on the port, as a process's list of files names them."""
        found: set[str] = set()
        for table in ("tcp", "tcp6"):
            for line in _text(self._proc / "net" / table).splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == self._port:
                    found.add(f"socket:[{fields[9]}]")
        return found

    def _descendants(self, pid: int) -> Iterator[int]:
        """Yield what the threads of a process have started; by plain calls, as a server has over 200 threads."""
        threads = f"{self._proc}/{pid}/task"
        for thread in _listed(threads):
            for child in map(int, _short(f"{threads}/{thread}/children").split()):
                yield child
                yield from self._descendants(child)

    def _resident_bytes(self, pid: int) -> int:
        fields = _text(self._proc / str(pid) / "statm").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0

    def _model_of(self, pid: int) -> str:
        arguments = _text(self._proc / str(pid) / "cmdline").split("\0")
        if len(arguments) < 2 or not arguments[0].endswith(STUB):
            return ""
        match = MODEL_FILE.search(arguments[1])
        return match[1] if match else ""

    def _started(self, pid: int) -> str:
        """Return when a process began, which tells it from a later one with its number."""
        fields = _text(self._proc / str(pid) / "stat").rpartition(")")[2].split()
        return fields[19] if len(fields) > 19 else ""


def is_local(host: str) -> bool:
    """Tell whether a host, a name or an IP address, is the loopback interface of this machine."""
    return host == "localhost" or host.startswith("127.") or host in ("[::1]", socket.gethostname())


def _targets(folder: Path) -> Iterator[str]:
    try:
        for entry in folder.iterdir():
            yield str(entry.readlink())
    except OSError:  # it has ended, or is not ours
        return


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:  # it has ended
        return []


def _short(path: str) -> bytes:
    """Return a file that the kernel writes at once."""
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            return os.read(file, SHORT_BYTES)
        finally:
            os.close(file)
    except OSError:  # it has ended
        return b""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:  # it has ended
        return ""
