"""Memory that Tritons on this machine read, too: large requests are received there, and their tensors stay there."""

import fcntl
import mmap
import os
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

from servicekit.telemetry.metrics import gauge

FOLDER: Final = Path("/dev/shm")  # noqa: S108  where POSIX has shared memory, and Triton looks for it
PREFIX: Final = "penstock-tensors-"
ALIGNED: Final = 64
IN_USE = gauge("penstock_inference_tensor_memory_bytes", "Bytes of requests that lie where Tritons read them")


class TensorMemory:
    """A file in /dev/shm, cut into blocks of the size that each request has."""

    def __init__(self, descriptor: int, name: str, size: int) -> None:
        """Take an open file of `size` bytes that is called `name` there."""
        self.name = name
        self.size = size
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, size)
        self._view = memoryview(self._map)
        self._had = 0
        self._free: list[tuple[int, int]] = [(0, size)]

    @classmethod
    @contextmanager
    def open(cls, size: int) -> Iterator["TensorMemory"]:
        """Make the memory, and take it away at the end; a Triton that has it mapped keeps its pages until then.

        What a dead pool has left is taken away, too. Raises OSError.
        """
        _sweep()
        name = PREFIX + token_hex(8)
        unlocked = FOLDER / f".{name}"
        descriptor = os.open(unlocked, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held as long as this process lives
            unlocked.rename(FOLDER / name)
            os.ftruncate(descriptor, size)
            yield cls(descriptor, name, size)
        finally:
            (FOLDER / name).unlink(missing_ok=True)
            os.close(descriptor)

    def take(self, size: int) -> "Tensors | None":
        """Return a block for a request of `size` bytes, or None where there is none.

        It ends at a multiple of 64 bytes: the contents of the last tensor are the end of most requests, and lie as its
        values need it.
        """
        length = -(-size // ALIGNED) * ALIGNED
        for at, (start, end) in enumerate(self._free):
            if end - start >= length:
                if not self._has(start + length):
                    return None
                self._free[at : at + 1] = [(start + length, end)] if end - start > length else []
                IN_USE.inc(length)
                block = _Block(self, start, start + length)
                return Tensors(block, start + length - size, self._view[start + length - size : start + length])
        return None

    def give_back(self, start: int, end: int) -> None:
        """Take a block back that nobody uses."""
        IN_USE.dec(end - start)
        at = bisect(self._free, (start, end))
        if at < len(self._free) and self._free[at][0] == end:
            end = self._free.pop(at)[1]
        if at and self._free[at - 1][1] == start:
            at -= 1
            start = self._free.pop(at)[0]
        self._free.insert(at, (start, end))

    def _has(self, end: int) -> bool:
        """Have the pages up to `end`; a page that could not be had when it is written to would kill the process."""
        if end > self._had:
            try:
                os.posix_fallocate(self._descriptor, self._had, end - self._had)
            except OSError:
                return False
            self._had = end
        return True


class _Block:
    """A part of the memory, which is free again when nobody refers to it: not while a Triton may read it."""

    __slots__ = ("_end", "_start", "memory")

    def __init__(self, memory: TensorMemory, start: int, end: int) -> None:
        self.memory = memory
        self._start = start
        self._end = end

    def __del__(self) -> None:
        self.memory.give_back(self._start, self._end)


class Tensors:
    """A `servicekit.landed.Landed`: a request in the memory, and what was appended to it."""

    __slots__ = ("_block", "more", "start", "view")

    def __init__(self, block: _Block, start: int, view: memoryview, more: bytes = b"") -> None:
        self._block = block
        self.more = more
        """What was appended."""
        self.start = start
        """Where in the memory it begins."""
        self.view = view

    @property
    def memory(self) -> TensorMemory:
        """The memory that it lies in."""
        return self._block.memory

    def __len__(self) -> int:
        return len(self.view) + len(self.more)

    def __bytes__(self) -> bytes:
        return b"".join((self.view, self.more))

    def __add__(self, more: bytes) -> "Tensors":
        return Tensors(self._block, self.start, self.view, self.more + more) if more else self


def _sweep() -> None:
    """Remove the files of pools that are gone: those that nobody holds locked."""
    for path in FOLDER.glob(f"{PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
