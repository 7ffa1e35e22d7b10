"""Measures what a Triton server's GPUs hold, from the metrics page of the server."""

import asyncio
import logging
import math
from typing import Final

from inference.core.residency_ports import Memory

METRIC: Final = b"nv_gpu_memory_used_bytes{"
TIMEOUT_S: Final = 2.0
LARGEST_PAGE_BYTES: Final = 16 * 1024 * 1024
log = logging.getLogger(__name__)


class DeviceMemory:
    """The used memory of all GPUs that a server sees, which are taken to be its own."""

    kinds: Final = frozenset({"GPU"})

    def __init__(self, address: str, port: int) -> None:
        """Take the server's address and the port of its metrics on the same host."""
        self._host = address.rpartition(":")[0].strip("[]")
        self._port = port

    async def read(self) -> Memory | None:
        """Return what they hold now, or None where the page cannot be read or tells of no GPU."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                page = await self._page()
        except (OSError, TimeoutError) as error:
            log.debug("no metrics of %s:%d: %s", self._host, self._port, error)
            return None
        sizes = [_bytes(line) for line in page.splitlines() if line.startswith(METRIC)]
        found = [size for size in sizes if size is not None]
        return Memory(sum(found)) if found else None

    async def _page(self) -> bytes:
        """Return the answer, headers included, which no line of a metric can be mistaken for."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(f"GET /metrics HTTP/1.0\r\nHost: {self._host}\r\n\r\n".encode())
            await writer.drain()
            parts: list[bytes] = []
            size = 0
            while size < LARGEST_PAGE_BYTES and (part := await reader.read(65_536)):
                parts.append(part)
                size += len(part)
            return b"".join(parts)
        finally:
            writer.close()


def _bytes(line: bytes) -> int | None:
    try:
        value = float(line.rpartition(b"}")[2].split()[0])
    except (ValueError, IndexError):
        return None
    return int(value) if math.isfinite(value) and value >= 0 else None
