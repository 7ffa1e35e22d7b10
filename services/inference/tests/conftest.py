"""The real Triton server, with the models of this repository; `make test` has installed and built both."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

STATE = Path(__file__).resolve().parents[3] / ".penstock"
MODELS = ("minilm-l6", "extractive-reader", "passage-ranker")
START_TIMEOUT_S = 60


class TritonProcess:
    """A Triton server on ports of its own, which it keeps when it is started again."""

    def __init__(self, models: tuple[str, ...], repository: Path) -> None:
        self._models = models
        grpc_port, http_port, metrics_port = _free_ports(3)
        self.address = f"127.0.0.1:{grpc_port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self._command = [sys.executable, "-m", "model_repository", "serve", "--target", "cpu"]
        self._command += ["--repository", str(repository), "--triton-env", str(STATE / "env/triton")]
        self._command += ["--grpc-port", str(grpc_port), "--http-port", str(http_port)]
        self._command += ["--metrics-port", str(metrics_port), "--load", *models]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; `wait_until_ready` tells when it serves."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it without a warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def pause(self) -> None:
        """Have it stand still, with its connections open."""
        assert self.process is not None, "it was never started"
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on."""
        assert self.process is not None, "it was never started"
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)

    def wait_until_ready(self) -> None:
        """Return when every model is ready; fail after a minute."""
        assert self.process is not None, "it was never started"
        end = time.monotonic() + START_TIMEOUT_S
        with grpc.insecure_channel(self.address) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            for name in self._models:
                while not _ready(stub, name):
                    assert self.process.poll() is None, f"triton did not start: run {self._command!r}"
                    assert time.monotonic() < end, f"{name} is not ready after {START_TIMEOUT_S} s"
                    time.sleep(0.1)


StartTritons = Callable[..., list[TritonProcess]]


@pytest.fixture(scope="session")
def triton_process() -> type[TritonProcess]:
    """Return what makes a Triton of some models of a repository, for who starts and ends it himself."""
    return TritonProcess


@pytest.fixture(scope="session")
def triton_address() -> Iterator[str]:
    """Start Triton on free ports and yield its gRPC address once the models are ready."""
    server = TritonProcess(MODELS, STATE / "models")
    try:
        server.start()
        server.wait_until_ready()
        yield server.address
    finally:
        server.stop()


@pytest.fixture
def start_tritons() -> Iterator[StartTritons]:
    """Yield what starts a Triton per repository given, with these models loaded and ready; they end with the test."""
    started: list[TritonProcess] = []

    def start(*repositories: Path, models: tuple[str, ...] = ("minilm-l6",)) -> list[TritonProcess]:
        servers = [TritonProcess(models, repository) for repository in repositories]
        started.extend(servers)
        for server in servers:
            server.start()
        for server in servers:
            server.wait_until_ready()
        return servers

    try:
        yield start
    finally:
        for server in started:
            server.kill()


@pytest.fixture(scope="session")
def built_models() -> Path:
    """Return the model repository that was built."""
    return STATE / "models"


def _ready(stub: oip_grpc.GRPCInferenceServiceStub, name: str) -> bool:
    try:
        return bool(stub.ModelReady(oip.ModelReadyRequest(name=name), timeout=1).ready)
    except grpc.RpcError:
        return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
