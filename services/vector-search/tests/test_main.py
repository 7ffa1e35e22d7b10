"""The process: it serves, and a second one on its directory is sent away by name."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from servicekit.testing import PUBLIC_KEY_PEM, eventually


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(folder: Path, address: str, **more: str) -> subprocess.Popen[str]:
    key = folder / "key.pem"
    key.write_bytes(PUBLIC_KEY_PEM)
    settings = {
        "VECTOR_SEARCH_ADDRESS": address,
        "VECTOR_SEARCH_METRICS_ADDRESS": free_address(),
        "VECTOR_SEARCH_DATA_DIR": str(folder / "data"),
        "VECTOR_SEARCH_IDENTITY_PUBLIC_KEY_FILE": str(key),
    }
    environment = {"PATH": os.defpath, **settings, **more}
    return subprocess.Popen(
        [sys.executable, "-m", "vector_search.main"], env=environment, stderr=subprocess.PIPE, text=True
    )


async def test_serves_and_a_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    address = free_address()
    with start(tmp_path, address) as first:
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                health = health_pb2_grpc.HealthStub(channel)

                async def ready() -> bool:
                    assert first.poll() is None
                    try:
                        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                    except grpc.aio.AioRpcError:
                        return False
                    return answer.status == health_pb2.HealthCheckResponse.SERVING

                await eventually(ready, 30)
            with start(tmp_path, free_address()) as second:
                _, errors = second.communicate(timeout=30)
            assert second.returncode == 2
            assert re.fullmatch(
                rf"vector-search: .*/data is owned by process {first.pid} on .*; stop it first\n", errors
            )
            first.send_signal(signal.SIGTERM)
            first.communicate(timeout=20)
            assert first.returncode == 0
        finally:
            first.kill()


def test_a_milvus_that_is_not_there_ends_the_start_in_one_line(tmp_path: Path) -> None:
    with start(tmp_path, free_address(), VECTOR_SEARCH_MILVUS_URL="http://root:secret-word@127.0.0.1:1") as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    said = errors.strip().splitlines()[-1]
    assert said.startswith("vector-search: Milvus at http://127.0.0.1:1 cannot be used")
    assert "secret-word" not in errors
    assert "Traceback" not in errors
