"""GPU memory from a server's metrics page: pages that a test writes, in the form of Triton's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from inference.adapters.triton_metrics import DeviceMemory
from inference.core.residency_ports import Memory

PAGE = b"""# HELP nv_gpu_memory_used_bytes GPU used memory, in bytes
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 17179869184.000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-2"} 1.5e9
nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 85899345920.000000
"""


@asynccontextmanager
async def telling(page: bytes) -> AsyncIterator[DeviceMemory]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readline()).startswith(b"GET /metrics ")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + page)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield DeviceMemory("127.0.0.1:8001", port)


async def test_all_gpus_count() -> None:
    async with telling(PAGE) as memory:
        assert await memory.read() == Memory(17_179_869_184 + 1_500_000_000)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"nv_cpu_memory_used_bytes 12\n",
        b'nv_gpu_memory_used_bytes{gpu_uuid="x"} nan\n',
        b'nv_gpu_memory_used_bytes{gpu_uuid="x"}\n',
        b'nv_gpu_memory_used_bytes{gpu_uuid="x"} -1\n',
        b"\xff" * 100_000,
    ],
)
async def test_a_page_without_gpus_measures_nothing(page: bytes) -> None:
    async with telling(page) as memory:
        assert await memory.read() is None


async def test_a_server_that_is_away_measures_nothing() -> None:
    async with telling(PAGE) as memory:
        pass
    assert await memory.read() is None
