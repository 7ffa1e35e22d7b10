"""The launcher, with and without the real server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from model_repository import triton_server
from model_repository.stub_watchdog import STUB
from model_repository.triton_server import Endpoints, Launch, LaunchError, TritonEnvironment, start_triton

ENVIRONMENT = Path(__file__).parents[2] / ".penstock" / "env" / "triton"
START_S = 30
NOTICE_S = 10


def launch(tmp_path: Path, *models: str, trace_endpoint: str | None = None) -> Launch:
    at = Endpoints("127.0.0.1", 1, 2, 3)
    return Launch(TritonEnvironment(tmp_path / "env"), tmp_path, models, at, trace_endpoint)


def test_a_model_that_was_not_built_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="ghost"):
        start_triton(launch(tmp_path, "ghost"))


def test_a_folder_without_triton_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"triton\.lock"):
        start_triton(launch(tmp_path))


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model_repository", "serve", "--repository", tmp_path, "--triton-env", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, f"error: no model in {tmp_path}\n")


def test_everything_listens_on_the_given_address_alone(tmp_path: Path) -> None:
    command = launch(tmp_path, "a", "b").command(Path("/site"), Path("/backends"))
    assert {f"--{name}-address=127.0.0.1" for name in ("grpc", "http", "metrics")} <= set(command)
    assert {"--load-model=a", "--load-model=b"} <= set(command)


def test_spans_are_sent_only_when_an_endpoint_is_given(tmp_path: Path) -> None:
    silent = launch(tmp_path).command(Path("/site"), Path("/backends"))
    assert not any("trace" in option for option in silent)
    traced = launch(tmp_path, trace_endpoint="http://c:4318/v1/traces").command(Path("/site"), Path("/backends"))
    assert "--trace-config=opentelemetry,url=http://c:4318/v1/traces" in traced


def test_only_the_own_stale_memory_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_server, "SHM", tmp_path)
    for name in ("penstock-1-a", "penstock-1-b", "penstock-11-c", "other"):
        (tmp_path / name).touch()
    assert triton_server.remove_stale_shm("penstock-1-") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "penstock-11-c"]


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    process: subprocess.Popen[bytes]
    client: triton.InferenceServerClient

    def encode(self, ids: np.ndarray) -> np.ndarray:
        return self.client.infer("minilm-l6", self.tensors(ids)).as_numpy("embedding")

    def tensors(self, ids: np.ndarray) -> list[triton.InferInput]:
        inputs = []
        for name, values in (("input_ids", ids), ("attention_mask", np.ones_like(ids))):
            inputs.append(triton.InferInput(name, list(values.shape), "INT64"))
            inputs[-1].set_data_from_numpy(values)
        return inputs


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def server(repository: Path) -> Iterator[Running]:
    if not ENVIRONMENT.exists():
        pytest.fail(f"no Triton environment at {ENVIRONMENT}: `make setup` makes it")
    ports = free_ports(3)
    command = [sys.executable, "-m", "model_repository", "serve", "--load", "minilm-l6"]
    command += ["--repository", str(repository), "--triton-env", str(ENVIRONMENT)]
    for name, port in zip(("grpc", "http", "metrics"), ports, strict=True):
        command += [f"--{name}-port", str(port)]
    with subprocess.Popen(command) as process, triton.InferenceServerClient(f"127.0.0.1:{ports[0]}") as client:
        try:
            _wait_until_ready(client, process)
            yield Running(process, client)
        finally:
            process.kill()
            process.wait()
            triton_server.remove_stale_shm(f"penstock-{ports[0]}-")


def _wait_until_ready(client: triton.InferenceServerClient, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            if client.is_model_ready("minilm-l6"):
                return
        except triton.InferenceServerException:
            time.sleep(0.1)
    pytest.fail("the server was not ready in time")


def test_server_is_silent_answers_refuses_and_leaves_none_when_it_loses_a_backend_process(server: Running) -> None:
    assert b"ORT_DISABLE_TELEMETRY=1" in Path(f"/proc/{server.process.pid}/environ").read_bytes().split(b"\0")
    parameters = server.client.get_model_config("minilm-l6").config.parameters
    assert parameters["dimensions"].string_value == "384"
    assert len(parameters["digest"].string_value) == 64

    vectors = server.encode(np.full((3, 7), 2000))
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with pytest.raises(triton.InferenceServerException, match="vocabulary") as refused:
        server.encode(np.full((1, 2), 99_999))
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"

    pid = server.process.pid
    children = [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]
    stubs = [child for child in children if Path(f"/proc/{child}/comm").read_text().strip() == STUB]
    assert len(stubs) > 1
    os.kill(stubs[0], signal.SIGKILL)
    assert server.process.wait(timeout=NOTICE_S) == -signal.SIGKILL
    deadline = time.monotonic() + NOTICE_S
    while any(Path(f"/proc/{stub}").exists() for stub in stubs):
        assert time.monotonic() < deadline, "a backend process stayed"
        time.sleep(0.1)
