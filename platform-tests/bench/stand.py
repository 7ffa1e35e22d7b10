"""A whole stack for benchmarks, with models of the benchmarks' upstream, and keys of projects that have limits."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from stack_process import ROOT, RunningStack, running_stack

QUICK, PACED, SLOW = "bench-upstream", "bench-paced", "bench-slow"
BEHAVIOURS = {QUICK: "bench", PACED: "bench-paced", SLOW: "bench-slow"}
MOST_AT_ONCE = {QUICK: 64, PACED: 512, SLOW: 512}
MODEL = """
  - name: {name}
    task: generate
    description: The benchmarks' upstream
    openai: {{upstream: bench, model: {behaviour}}}
    context_tokens: 32768
    price: {{input_usd_per_million: 0.15, output_usd_per_million: 0.6}}
    queue: {{max_concurrent: {most}, max_waiting: 1024}}
    timeout_s: 30"""
UPSTREAM = """
upstreams:
  bench: {{base_url: "{url}/v1"}}
"""
LIMITS = {
    "requests_per_minute": 10_000_000,
    "tokens_per_minute": 1_000_000_000,
    "concurrent_requests": 10_000,
    "budget_day_usd": "100000",
    "budget_month_usd": "1000000",
}


@dataclass(frozen=True, slots=True)
class Stand:
    """A running stack, the seconds until it was ready, its state, and the upstream's process and address."""

    running: RunningStack
    ready_s: float
    state: Path
    upstream: int
    upstream_url: str

    def admin(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the admin API; raise RuntimeError for a refusal."""
        headers = {"Authorization": f"Bearer {self.running.admin_key}", "Content-Type": "application/json"}
        with closing(HTTPConnection(urlsplit(self.running.url).netloc, timeout=30)) as connection:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            said: dict[str, Any] = json.loads(response.read())
        if response.status >= 300:
            raise RuntimeError(f"{path}: {response.status} {said}")
        return said

    def limited_key(self, project: str) -> str:
        """Return a key of a new project that has limits and a budget."""
        self.admin("/v1/admin/tenants/demo/projects", {"id": project, "limits": LIMITS})
        asked = {"tenant": "demo", "project": project, "name": "bench", "role": "member"}
        return str(self.admin("/v1/admin/keys", asked)["key"])


def with_bench_models(folder: Path, upstream_url: str, names: Sequence[str] = tuple(BEHAVIOURS)) -> Path:
    """Write the local catalogue with models of the benchmarks' upstream; return its path."""
    models = [MODEL.format(name=name, behaviour=BEHAVIOURS[name], most=MOST_AT_ONCE[name]) for name in names]
    local = (ROOT / "deploy/local/catalogue.yaml").read_text().rstrip()
    catalogue = folder / "catalogue.yaml"
    catalogue.write_text(local + "".join(models) + UPSTREAM.format(url=upstream_url))
    return catalogue


@contextmanager
def running_upstream() -> Iterator[tuple[int, str]]:
    """Run the upstream on a free port; yield its process and its address, or raise RuntimeError."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = free.getsockname()
    upstream = subprocess.Popen([sys.executable, str(Path(__file__).with_name("upstream.py")), str(place[1])])
    try:
        deadline = time.monotonic() + 15
        while upstream.poll() is None and time.monotonic() < deadline:
            with socket.socket() as asked:
                if asked.connect_ex(place) == 0:
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError("the upstream does not listen")
        yield upstream.pid, f"http://127.0.0.1:{place[1]}"
    finally:
        upstream.terminate()
        upstream.wait()


@contextmanager
def stand(port_offset: int, more: Mapping[str, str] = MappingProxyType({})) -> Iterator[Stand]:
    """Start the upstream and a stack before it, with more settings if need be; stop both in the end."""
    with running_upstream() as (upstream, url), tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        state = Path(folder)
        settings = {"PENSTOCK_CATALOGUE": str(with_bench_models(state, url)), "PENSTOCK_TRACE_RATIO": "0.01", **more}
        start = time.perf_counter()
        with running_stack(state, port_offset, settings) as running:
            yield Stand(running, time.perf_counter() - start, state, upstream, url)
