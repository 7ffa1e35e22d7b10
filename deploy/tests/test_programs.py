"""The small programs that the chart mounts: golden probe, model store, and what `helm test` asks."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.rendering.chart import CHART

FILES = CHART / "files"
CASE = {
    "name": "a sentence",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}],
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.6, 0.8], "atol": 0.1, "min_cosine": 0.999}
    ],
}
RIGHT = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.61, 0.79]}]}


class Server:
    """An HTTP server whose answers a test decides: by path, a status and a body."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.held = ""
        self.let_go = threading.Event()
        self.port = 0

    @contextmanager
    def running(self) -> Iterator["Server"]:
        server = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                server.asked.append((self.command, self.path, body))
                if server.held and server.held in self.path:
                    server.let_go.wait(20)
                status, answer = server.find(self.path)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_DELETE = do_GET  # noqa: N815  the names of http.server

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as listening:
            self.port = listening.server_address[1]
            thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self.let_go.set()
                listening.shutdown()
                thread.join()

    def find(self, path: str) -> tuple[int, Any]:
        return next((answer for part, answer in self.answers.items() if part in path), (200, {}))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().running() as running:
        yield running


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "models/m").mkdir(parents=True)
    (tmp_path / "models/m/golden.json").write_text(json.dumps({"cases": [CASE, {"name": "a chat", "messages": []}]}))
    (tmp_path / "models/m/config.pbtxt").write_text("")
    return tmp_path / "models"


def run(program: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(FILES / program), *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


def probe(server: Server, repository: Path, *models: str) -> subprocess.CompletedProcess[str]:
    passed = repository.parent / "passed"
    arguments = ["--port", server.port, "--repository", repository, "--passed", passed, "--timeout-s", 0.5]
    return run("golden_probe.py", *arguments, *models)


def test_a_server_that_answers_right_is_ready(server: Server, repository: Path) -> None:
    server.answers = {"/infer": (200, RIGHT)}
    done = probe(server, repository, "m")
    assert (done.returncode, done.stderr) == (0, "")
    assert [(method, path) for method, path, _ in server.asked] == [
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/m/ready"),
        ("POST", "/v2/models/m/infer"),
    ]
    assert server.asked[2][2] == {"inputs": CASE["inputs"]}


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"/health/ready": (400, {})}, "health/ready answered 400"),
        ({"/models/m/ready": (404, {})}, "models/m/ready answered 404"),
        ({"/infer": (500, {"error": "out of memory"})}, "out of memory"),
        ({"/infer": (200, {"outputs": []})}, "a sentence: the output is not there"),
        ({"/infer": (200, {"outputs": [RIGHT["outputs"][0] | {"shape": [2, 1]}]})}, "another shape"),
        ({"/infer": (200, {"outputs": [RIGHT["outputs"][0] | {"data": [0.6]}]})}, "too few values"),
        ({"/infer": (200, {"outputs": [RIGHT["outputs"][0] | {"data": [0.6, 0.95]}]})}, "a wrong answer"),
        ({"/infer": (200, {"outputs": [RIGHT["outputs"][0] | {"data": [0.52, 0.88]}]})}, "a wrong answer"),
        ({"/infer": (200, {"outputs": [RIGHT["outputs"][0] | {"data": [float("nan"), 0.8]}]})}, "a wrong answer"),
    ],
)
def test_a_server_that_does_not_is_not_and_says_why(
    server: Server, repository: Path, answers: dict[str, Any], why: str
) -> None:
    server.answers = {"/infer": (200, RIGHT)} | answers
    done = probe(server, repository, "m")
    assert done.returncode == 1
    assert why in done.stderr


def test_a_server_that_has_passed_may_be_slow_and_one_that_has_not_may_not(server: Server, repository: Path) -> None:
    server.answers = {"/infer": (200, RIGHT)}
    server.held = "/infer"
    first = probe(server, repository, "m")
    assert first.returncode == 1
    assert "no answer in 0.5 s" in first.stderr
    server.held = ""
    assert probe(server, repository, "m").returncode == 0
    server.held = "/infer"
    assert probe(server, repository, "m").returncode == 0
    (repository.parent / "passed").write_text("another start of the container")
    assert probe(server, repository, "m").returncode == 1


def test_nobody_listens(repository: Path) -> None:
    with Server().running() as gone:
        pass
    done = probe(gone, repository, "m")
    assert done.returncode == 1
    assert "refused" in done.stderr.lower()


def test_a_store_without_the_model_is_told_with_what_it_holds(repository: Path) -> None:
    assert run("check_models.py", repository, "m").returncode == 0
    done = run("check_models.py", repository, "m", "chat", "other")
    assert done.returncode == 1
    assert done.stderr.strip() == "the model store has no config.pbtxt of: chat, other; it holds: m"
    empty = repository.parent / "empty"
    empty.mkdir()
    assert "it holds: no model" in run("check_models.py", empty, "m").stderr


def test_models_are_fetched_once_however_many_pods_start(tmp_path: Path) -> None:
    tools, store, log = tmp_path / "bin", tmp_path / "store", tmp_path / "log"
    tools.mkdir()
    store.mkdir()
    (tools / "rclone").write_text(f'#!/bin/sh\necho "$@" >>{log}\nmkdir -p "$4/m"\ntest ! -e {tmp_path}/broken\n')
    (tools / "rclone").chmod(0o755)

    def fetch(uri: str = "s3://bucket/models") -> subprocess.CompletedProcess[str]:
        command = ["/bin/sh", str(FILES / "fetch_models.sh"), uri, str(store)]
        path = f"{tools}:/usr/bin:/bin"
        return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False)

    (tmp_path / "broken").touch()
    assert fetch().returncode != 0
    assert log.read_text().splitlines() == [f"copy --no-update-modtime :s3:bucket/models {store}"]
    (tmp_path / "broken").unlink()
    with ThreadPoolExecutor(6) as pods:
        done = list(pods.map(lambda _: fetch(), range(6)))
    assert [each.returncode for each in done] == [0] * 6
    assert sorted(each.stdout.split()[-1] for each in done) == ["already"] * 5 + ["fetched"]
    assert len(log.read_text().splitlines()) == 2, "the failed one and one more"
    assert fetch("s3://bucket/newer").stdout.endswith("fetched\n")


def test_helm_test_passes_on_a_cited_answer_and_takes_its_document_back(server: Server) -> None:
    citation = {"document_id": "aurora"}
    server.answers = {
        "/v1/ask": (200, {"answer": "It is 412 metres long.", "citations": [citation], "degradations": []}),
        "/v1/models": (200, {"data": [{"id": "minilm-l6"}]}),
    }
    variables = {"PENSTOCK_URL": f"http://127.0.0.1:{server.port}", "PENSTOCK_API_KEY": "pk-secret"}
    done = run("ask.py", **variables)
    assert done.returncode == 0, done.stderr
    assert [method for method, _, _ in server.asked] == ["POST", "POST", "DELETE", "GET"]
    assert "pk-secret" not in done.stdout + done.stderr
    for wrong in ({"answer": "I do not know."}, {"citations": []}, {"degradations": [{"step": "generate"}]}):
        server.asked.clear()
        full = {"answer": "412", "citations": [citation], "degradations": []}
        server.answers["/v1/ask"] = (200, full | wrong)
        assert run("ask.py", **variables).returncode == 1
        assert server.asked[-1][0] == "DELETE", "the document is taken back all the same"
