"""Three times what can be answered, of three priorities and three tenants, over REST.

What as many callers as the slow upstream has workers get from it is the unloaded maximum; then callers of each class
and tenant ask at random moments, three times as often as that together, whatever becomes of it.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import aiohttp
from cores import pin_all
from report import Figure
from stand import SLOW, Stand
from upstream import SERVICE_S, WORKERS

SLO_S = 5 * SERVICE_S
PARTS = {"interactive": 0.6, "standard": 0.9, "batch": 1.5}
TENANTS = 3
UNLOADED_S, WARM_S, MEASURED_S = 6.0, 15.0, 30.0
BODY = {"model": SLOW, "messages": [{"role": "user", "content": "How long does it take?"}], "max_tokens": 64}


@dataclass(slots=True)
class Caller:
    """One tenant's key of one class, and what became of its requests; `dishonest` refusals do not say when to retry."""

    tenant: str
    priority: str
    key: str = field(repr=False)
    served_s: list[float] = field(default_factory=list)
    shed_s: list[float] = field(default_factory=list)
    dishonest: int = 0


class Overload:
    """The load."""

    def __init__(self, session: aiohttp.ClientSession, stand: Stand) -> None:
        self._session, self._stand = session, stand
        self.late_s = 0.0

    def callers(self) -> list[Caller]:
        """Make tenants, and a key of each class for each of them."""
        made = []
        for number in range(TENANTS):
            tenant = f"overload-{number}"
            self._stand.admin("/v1/admin/tenants", {"id": tenant, "highest_priority": "interactive"})
            for priority in PARTS:
                asked = {"tenant": tenant, "name": priority, "role": "member", "priority": priority}
                key = self._stand.admin("/v1/admin/keys", {"project": "default", **asked})
                made.append(Caller(tenant, priority, key["key"]))
        return made

    async def ask(self, caller: Caller, counted: bool) -> None:
        """Ask once, and note how it went."""
        start = time.perf_counter()
        url, headers = f"{self._stand.running.url}/v1/chat/completions", {"Authorization": f"Bearer {caller.key}"}
        async with self._session.post(url, json=BODY, headers=headers) as response:
            await response.read()
        if not counted:
            return
        if response.status == 200:
            caller.served_s.append(time.perf_counter() - start)
            return
        caller.shed_s.append(time.perf_counter() - start)
        told = response.headers.get("retry-after", "")
        caller.dishonest += not (response.status in {429, 503} and told.isdigit() and 1 <= int(told) <= 120)

    async def unloaded(self, caller: Caller) -> float:
        """Return the answers per second to as many callers as the upstream has workers."""
        end = time.perf_counter() + UNLOADED_S
        alone = Caller(caller.tenant, caller.priority, caller.key)

        async def call() -> None:
            while time.perf_counter() < end:
                await self.ask(alone, counted=True)

        await asyncio.gather(*(call() for _ in range(WORKERS)))
        if alone.shed_s:
            raise RuntimeError(f"{len(alone.shed_s)} requests were turned away without overload")
        return len(alone.served_s) / UNLOADED_S

    async def overload(self, callers: Sequence[Caller], rate: float) -> None:
        """Ask three times as often as can be answered, measured after a while."""
        start = time.perf_counter()

        async def call(caller: Caller, tasks: asyncio.TaskGroup) -> None:
            due = start
            wanted = rate * PARTS[caller.priority] / TENANTS
            while (due := due + random.expovariate(wanted)) < start + WARM_S + MEASURED_S:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                self.late_s = max(self.late_s, time.perf_counter() - due)
                tasks.create_task(self.ask(caller, counted=due >= start + WARM_S))

        async with asyncio.TaskGroup() as tasks:
            for caller in callers:
                tasks.create_task(call(caller, tasks))


def figures(callers: Sequence[Caller], rate: float, late_s: float) -> list[Figure]:
    """Return what became of the load, each against its bar."""
    of = {priority: [caller for caller in callers if caller.priority == priority] for priority in PARTS}
    times = {name: sorted(second for caller in group for second in caller.served_s) for name, group in of.items()}
    turned_away = {name: sum(len(caller.shed_s) for caller in group) for name, group in of.items()}
    shed = {name: count / max(1, count + len(times[name])) for name, count in turned_away.items()}
    served = {name: [len(caller.served_s) for caller in group] for name, group in of.items()}
    every = sum(len(each) for each in times.values())
    asked = every + sum(turned_away.values())
    quick = times["interactive"] or [60.0]
    return [
        Figure("overload, unloaded maximum", rate, "1/s"),
        Figure("overload, asked for, of that", asked / MEASURED_S, "1/s", bar=2.8, baseline=rate),
        Figure("overload, goodput of the unloaded maximum", every / MEASURED_S, "1/s", bar=0.9, baseline=rate),
        Figure("overload, interactive p50", median(quick) * 1e3, "ms"),
        Figure("overload, interactive p99", quick[int(len(quick) * 0.99)] * 1e3, "ms", bar=SLO_S * 1e3, at_most=True),
        *(Figure(f"overload, share of {name} turned away", shed[name], "") for name in PARTS),
        Figure("overload, interactive turned away, of all of it", shed["interactive"], "", bar=0.001, at_most=True),
        Figure("overload, standard turned away, of batch's", shed["standard"], "", 0.9, True, shed["batch"]),
        *(
            Figure(f"overload, {name}, least of most served tenant", min(group) / max(1, *group), "", bar=0.8)
            for name, group in served.items()
        ),
        Figure("overload, refusals that do not say when", sum(each.dishonest for each in callers), "", 0, at_most=True),
        Figure("  latest question of the load itself", late_s * 1e3, "ms"),
    ]


async def _measure(stand: Stand) -> list[Figure]:
    pin_all(stand.running, stand.upstream)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        load = Overload(session, stand)
        callers = load.callers()
        rate = await load.unloaded(callers[0])
        await load.overload(callers, rate)
        return figures(callers, rate, load.late_s)


def measure(stand: Stand) -> list[Figure]:
    """Return the figures of overload."""
    return asyncio.run(_measure(stand))
