"""The real Triton server, with the models of this repository; `make test` has installed and built both."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

STATE = Path(__file__).resolve().parents[4] / ".penstock"
MODELS = ("minilm-l6", "extractive-reader")
START_TIMEOUT_S = 60


@pytest.fixture(scope="session")
def triton_address() -> Iterator[str]:
    """Start Triton on free ports and yield its gRPC address once both models are ready."""
    grpc_port, http_port, metrics_port = _free_ports(3)
    command = [sys.executable, "-m", "model_repository", "serve", "--target", "cpu"]
    command += ["--repository", str(STATE / "models"), "--triton-env", str(STATE / "env/triton"), "--load", *MODELS]
    command += ["--grpc-port", str(grpc_port), "--http-port", str(http_port), "--metrics-port", str(metrics_port)]
    address = f"127.0.0.1:{grpc_port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(address, process)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_TIMEOUT_S
    with grpc.insecure_channel(address) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        for name in MODELS:
            while not _ready(stub, name):
                assert process.poll() is None, f"triton did not start: run {process.args!r}"
                assert time.monotonic() < end, f"{name} is not ready after {START_TIMEOUT_S} s"
                time.sleep(0.1)


def _ready(stub: oip_grpc.GRPCInferenceServiceStub, name: str) -> bool:
    try:
        return bool(stub.ModelReady(oip.ModelReadyRequest(name=name), timeout=1).ready)
    except grpc.RpcError:
        return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
