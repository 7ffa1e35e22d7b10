"""`penstock usage` asks a gateway for every page and shows what it says."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from penstock_cli.main import app
from typer.testing import CliRunner

SUM = {
    "object": "usage", "model": "m", "attempts": 12_345, "calls": 2, "cancelled": 0, "failed": 1, "abandoned": 0,
    "input_tokens": 10, "output_tokens": 5, "cached_input_tokens": 0, "cost_nanos": 10, "cost_usd": "0.00000001",
}  # fmt: skip
ATTEMPT = {
    "started_at": "2026-11-30T18:00:00Z", "tenant": "[bold]acme", "project": "p", "key": "k", "model": "m",
    "status": "failed", "reason": "queue_full", "input_tokens": 0, "output_tokens": 0, "cost_usd": "0.00",
}  # fmt: skip


class Gateway(BaseHTTPRequestHandler):
    """Answers with two pages of sums, or one of attempts; remembers what it was asked."""

    asked: list[tuple[str, dict[str, str], str]]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append((parts.path, query, self.headers["Authorization"]))
        rows: list[Any] = [ATTEMPT] if parts.path.endswith("attempts") else [SUM]
        more = None if query.get("page_token") or parts.path.endswith("attempts") else "more"
        body = json.dumps({"object": "list", "data": rows, "next_page_token": more}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, str], str]]]:
    Gateway.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("PENSTOCK_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("PENSTOCK_API_KEY", "mine")
    monkeypatch.setenv("PENSTOCK_ADMIN_KEY", "root")
    yield Gateway.asked
    server.shutdown()
    server.server_close()
    thread.join()


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["usage", *words], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_every_page_is_fetched(asked: list[tuple[str, dict[str, str], str]]) -> None:
    shown = run("--by", "model", "--period", "2026-11-01..2026-12-01", "--only", "project=a=b")
    assert shown.count("12,345") == 2
    assert "0.00000001" in shown
    path, query, key = asked[0]
    assert (path, key) == ("/v1/usage", "Bearer mine")
    assert query == {"by": "model", "since": "2026-11-01", "until": "2026-12-01", "project": "a=b", "page_size": "1000"}
    assert asked[1][1]["page_token"] == "more"


def test_everyones_attempts_need_the_admin_key(asked: list[tuple[str, dict[str, str], str]]) -> None:
    shown = run("--all", "--attempts")
    assert "[bold]acme" in shown
    assert "queue_full" in shown
    assert asked[0][0::2] == ("/v1/admin/usage/attempts", "Bearer root")
    assert json.loads(run("--json")) == [SUM, SUM]


def test_an_unknown_filter_is_refused(asked: list[tuple[str, dict[str, str], str]]) -> None:
    result = CliRunner().invoke(app, ["usage", "--only", "principal=me"])
    assert result.exit_code == 2
    assert asked == []
