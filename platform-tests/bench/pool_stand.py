"""Tritons and a pool of their own for the benchmarks of the pool, each a process, and a client of both."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from resources import family
from servicekit.identity import Identity, Minter
from servicekit.testing import ALL_SCOPES, PRIVATE_KEY_PEM, PUBLIC_KEY_PEM
from stack_process import ROOT
from tritonclient.grpc import service_pb2 as oip

MODELS = ROOT / ".penstock" / "models"
ENCODER = "minilm-l6"
START_S = 60.0
LARGEST_BYTES = 64 * 1024 * 1024
TOKEN_S = 3600
CHANNEL = (("grpc.max_receive_message_length", LARGEST_BYTES), ("grpc.max_send_message_length", LARGEST_BYTES))


class Process:
    """A process with a gRPC port, which it keeps when it is started again."""

    def __init__(self, command: Sequence[str], port: int, log: Path, variables: dict[str, str] | None = None) -> None:
        self.address = f"127.0.0.1:{port}"
        self.metrics_url = ""
        self._port = port
        self._command = list(command)
        self._log = log
        self._variables = variables or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pids(self) -> set[int]:
        """Return it and what it has started."""
        return set() if self._process is None else family([self._process.pid])

    def start(self) -> Self:
        """Start it; `listening` tells when it can be asked."""
        environment = os.environ | self._variables  # noqa: TID251
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        return self

    def listening(self) -> Self:
        """Return once its port is open; raise RuntimeError when that takes a minute."""
        end = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return self
            if time.monotonic() > end or (self._process is not None and self._process.poll() is not None):
                raise RuntimeError(f"{self._command[:3]} does not listen: see {self._log}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it without a warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)


def triton(repository: Path, models: Sequence[str], log: Path) -> Process:
    """Return a Triton that loads these models of a repository; it is not started."""
    ports = free_ports(3)
    command = [sys.executable, "-m", "model_repository", "serve", "--target", "cpu", "--load", *models]
    command += ["--repository", str(repository), "--triton-env", str(ROOT / ".penstock/env/triton")]
    for protocol, port in zip(("grpc", "http", "metrics"), ports, strict=True):
        command += [f"--{protocol}-port", str(port)]
    return Process(command, ports[0], log)


@contextmanager
def tritons(repository: Path, models: Sequence[str], count: int = 1) -> Iterator[list[Process]]:
    """Run Tritons that load these models; yield them as soon as they listen."""
    log = repository.parent / "tritons.log" if os.access(repository.parent, os.W_OK) else Path(os.devnull)
    servers = [triton(repository, models, log).start() for _ in range(count)]
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
        for server in servers:
            server.listening()
        yield servers


@contextmanager
def pool_process(folder: Path, catalogue: str) -> Iterator[Process]:
    """Run a pool of this catalogue, with its files in a folder; yield it once it listens."""
    path, key = folder / "catalogue.yaml", folder / "identity.pub.pem"
    path.write_text(catalogue, "utf-8")
    key.write_bytes(PUBLIC_KEY_PEM)
    port, metrics = free_ports(2)
    variables = {
        "INFERENCE_ADDRESS": f"127.0.0.1:{port}",
        "INFERENCE_METRICS_ADDRESS": f"127.0.0.1:{metrics}",
        "INFERENCE_CATALOGUE_FILE": str(path),
        "INFERENCE_IDENTITY_PUBLIC_KEY_FILE": str(key),
        "INFERENCE_VERSION_DATABASE": str(folder / "versions.db"),
        "INFERENCE_TRACE_RATIO": "0.01",
        "INFERENCE_TRACE_FILE": str(folder / "spans.jsonl"),
    }
    pool = Process([sys.executable, "-m", "inference.main"], port, folder / "pool.log", variables).start()
    pool.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
    try:
        yield pool.listening()
    finally:
        pool.stop()


@dataclass(slots=True)
class OipClient:
    """Runs models over one connection, as bytes; a token goes along where there is one."""

    address: str
    token: str = field(default="", repr=False)
    _channel: Any = None
    _infer: Any = None

    async def __aenter__(self) -> Self:
        """Connect."""
        self._channel = grpc.aio.insecure_channel(self.address, options=CHANNEL)
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self._channel.close()

    async def infer(self, request: bytes, timeout_s: float = 30.0, token_: str = "") -> bytes:
        """Return the response, with another token where one is given; raise AioRpcError."""
        shown = token_ or self.token
        metadata = (("authorization", f"Bearer {shown}"),) if shown else None
        answer: bytes = await self._infer(request, timeout=timeout_s, metadata=metadata)
        return answer

    async def ready(self, request: bytes) -> None:
        """Return once a request is answered; raise its error after a minute."""
        end = time.monotonic() + START_S
        while True:
            try:
                await self.infer(request)
            except grpc.aio.AioRpcError:
                if time.monotonic() > end:
                    raise
                await self._channel.channel_ready()
            else:
                return


def token(priority: str = "standard", tenant: str = "bench", key: str = "bench") -> str:
    """Return a token that a pool of `pool_process` takes, for an hour."""
    identity = Identity(tenant, "bench", key, ALL_SCOPES, priority=priority)
    return Minter(PRIVATE_KEY_PEM, TOKEN_S).mint(identity).token


def infer_request(model: str, **inputs: "np.ndarray[Any, Any]") -> bytes:
    """Return a ModelInferRequest with INT64 and FP32 inputs."""
    request = oip.ModelInferRequest(model_name=model)
    for name, values in inputs.items():
        kind = "INT64" if values.dtype == np.int64 else "FP32"
        request.inputs.add(name=name, datatype=kind, shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    written: bytes = request.SerializeToString()
    return written


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
