"""Overload at three times capacity with three priorities, over REST: `python platform-tests/bench/overload.py`.

It starts a stack of its own before an upstream that has few workers. What as many callers as it has workers get from it
is the unloaded maximum; then callers of three classes and three tenants each ask at random moments, three times as
often as that, whatever becomes of it.
"""

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import aiohttp  # noqa: E402
from aiohttp import web  # noqa: E402
from report import Figure, publish  # noqa: E402
from stack_process import ROOT, RunningStack, running_stack  # noqa: E402
from upstream import HEADER_END, answer  # noqa: E402

PORT_OFFSET = 21_000
UPSTREAM_PORT = 28_998
MODEL = "overload-upstream"
WORKERS, SERVICE_S = 8, 0.1
SLO_S = 5 * SERVICE_S
PARTS = {"interactive": 0.6, "standard": 0.9, "batch": 1.5}
TENANTS = 3
UNLOADED_S, WARM_S, MEASURED_S = 6.0, 15.0, 30.0
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "How long does it take?"}], "max_tokens": 64}
CATALOGUE = f"""
  - name: {MODEL}
    task: generate
    description: The upstream of the overload benchmark
    openai: {{upstream: overload, model: bench}}
    context_tokens: 32768
    queue: {{max_concurrent: 512, max_waiting: 1024}}
    timeout_s: 30
upstreams:
  overload: {{base_url: "http://127.0.0.1:{UPSTREAM_PORT}/v1"}}
"""


def slow_upstream() -> web.Application:
    """Return an upstream with few workers, first come first served, as a server of models is."""
    workers = asyncio.Semaphore(WORKERS)

    async def complete(request: web.Request) -> web.Response:
        body = await request.read()
        async with workers:
            await asyncio.sleep(random.gammavariate(4, SERVICE_S / 4))
        events = answer(body).split(HEADER_END, 1)[1]
        return web.Response(body=events, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    return app


@dataclass(slots=True)
class Caller:
    """One tenant's key of one class, and what became of its requests; `dishonest` refusals do not say when to retry."""

    tenant: str
    priority: str
    key: str = field(repr=False)
    served_s: list[float] = field(default_factory=list)
    shed: int = 0
    dishonest: int = 0


class Overload:
    """The load."""

    def __init__(self, session: aiohttp.ClientSession, running: RunningStack) -> None:
        self._session, self._running = session, running

    async def admin(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the admin API; raise RuntimeError for a refusal."""
        headers = {"Authorization": f"Bearer {self._running.admin_key}"}
        async with self._session.post(self._running.url + path, json=body, headers=headers) as response:
            said: dict[str, Any] = await response.json()
            if response.status >= 300:
                raise RuntimeError(f"{path}: {response.status} {said}")
            return said

    async def callers(self) -> list[Caller]:
        """Make tenants, and a key of each class for each of them."""
        made = []
        for number in range(TENANTS):
            tenant = f"overload-{number}"
            await self.admin("/v1/admin/tenants", {"id": tenant, "highest_priority": "interactive"})
            for priority in PARTS:
                asked = {"tenant": tenant, "name": priority, "role": "member", "priority": priority}
                key = await self.admin("/v1/admin/keys", {"project": "default", **asked})
                made.append(Caller(tenant, priority, key["key"]))
        return made

    async def ask(self, caller: Caller, counted: bool) -> None:
        """Ask once, and note how it went."""
        start = time.perf_counter()
        url, headers = f"{self._running.url}/v1/chat/completions", {"Authorization": f"Bearer {caller.key}"}
        async with self._session.post(url, json=BODY, headers=headers) as response:
            await response.read()
            if response.status == 200 and counted:
                caller.served_s.append(time.perf_counter() - start)
            elif response.status != 200:
                caller.shed += counted
                told = response.headers.get("retry-after", "")
                honest = response.status in {429, 503} and told.isdigit() and 1 <= int(told) <= 120
                caller.dishonest += counted and not honest

    async def unloaded(self, caller: Caller) -> float:
        """Return the answers per second to as many callers as the upstream has workers."""
        end = time.perf_counter() + UNLOADED_S
        alone = Caller(caller.tenant, caller.priority, caller.key)

        async def call() -> None:
            while time.perf_counter() < end:
                await self.ask(alone, counted=True)

        await asyncio.gather(*(call() for _ in range(WORKERS)))
        if alone.shed:
            raise RuntimeError(f"{alone.shed} requests were turned away without overload")
        return len(alone.served_s) / UNLOADED_S

    async def overload(self, callers: Sequence[Caller], rate: float) -> None:
        """Ask three times as often as can be answered, measured after a while."""
        start = time.perf_counter()

        async def call(caller: Caller, tasks: asyncio.TaskGroup) -> None:
            due = start
            wanted = rate * PARTS[caller.priority] / TENANTS
            while (due := due + random.expovariate(wanted)) < start + WARM_S + MEASURED_S:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(self.ask(caller, counted=due >= start + WARM_S))

        async with asyncio.TaskGroup() as tasks:
            for caller in callers:
                tasks.create_task(call(caller, tasks))


def figures(callers: Sequence[Caller], rate: float) -> list[Figure]:
    """Return what became of the load, each against its bar."""
    of = {priority: [caller for caller in callers if caller.priority == priority] for priority in PARTS}
    times = {name: sorted(second for caller in group for second in caller.served_s) for name, group in of.items()}
    turned_away = {name: sum(caller.shed for caller in group) for name, group in of.items()}
    shed = {name: count / max(1, count + len(times[name])) for name, count in turned_away.items()}
    served = {name: [len(caller.served_s) for caller in group] for name, group in of.items()}
    every = sum(len(each) for each in times.values())
    quick = times["interactive"] or [60.0]
    return [
        Figure("overload, unloaded maximum", rate, "1/s"),
        Figure("overload, goodput of the unloaded maximum", every / MEASURED_S, "1/s", bar=0.9, baseline=rate),
        Figure("overload, interactive p50", median(quick) * 1e3, "ms"),
        Figure("overload, interactive p99", quick[int(len(quick) * 0.99)] * 1e3, "ms", bar=SLO_S * 1e3, at_most=True),
        Figure("overload, interactive shed", shed["interactive"], "", bar=0.001, at_most=True),
        Figure("overload, batch shed", shed["batch"], "", bar=0.5),
        Figure("overload, share of standard shed, of batch's", shed["standard"], "", 0.9, True, shed["batch"]),
        *(
            Figure(f"overload, {name} least of most served tenant", min(group) / max(1, *group), "", bar=0.8)
            for name, group in served.items()
        ),
        Figure("overload, refusals without Retry-After", sum(each.dishonest for each in callers), "", 0, True),
    ]


async def measure(running: RunningStack) -> list[Figure]:
    """Return the figures of a stack with the slow upstream behind it."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        load = Overload(session, running)
        callers = await load.callers()
        rate = await load.unloaded(callers[0])
        await load.overload(callers, rate)
        return figures(callers, rate)


def main() -> int:
    """Start everything, measure, stop it; exit with 1 when a bar does not hold."""
    upstream = subprocess.Popen([sys.executable, str(HERE / "overload.py"), str(UPSTREAM_PORT)])
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            catalogue = Path(folder) / "catalogue.yaml"
            catalogue.write_text((ROOT / "deploy/local/catalogue.yaml").read_text().rstrip() + CATALOGUE)
            settings = {"PENSTOCK_CATALOGUE": str(catalogue), "PENSTOCK_TRACE_RATIO": "0.01"}
            with running_stack(Path(folder), PORT_OFFSET, settings) as running:
                measured = asyncio.run(measure(running))
        return 0 if publish(ROOT / ".penstock" / "bench", "overload", measured) else 1
    finally:
        upstream.terminate()
        upstream.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        web.run_app(slow_upstream(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
    else:
        sys.exit(main())
