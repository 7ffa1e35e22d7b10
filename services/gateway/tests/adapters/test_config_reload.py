"""From the file to the database and to the routes: a change is live within 5 s, and no request notices the swap."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.adapters.config_file import ConfigurationFile
from gateway.adapters.sql_accounts import SqlAccounts
from gateway.core.accounts import Account, Limits
from gateway.core.configuration import Configuration, declared_tenants
from gateway.core.cooldowns import CooldownPolicy, Cooldowns
from gateway.core.declaration import Declaration
from gateway.core.live_configuration import LiveConfiguration
from gateway.core.models import ModelCard, Models, Task
from gateway.core.routes import Needs, Router
from gateway.core.tenants import FROM_FILE, Tenant
from servicekit.testing import eventually

LIVE_S = 5.0
FIRST = """
tenants:
  acme:
    limits: {budget_day: 1.25}
    projects: {search: {models: ["one"]}}
routes: {smart: {candidates: [one]}}
"""
SECOND = FIRST.replace("1.25", "2.5").replace("candidates: [one]", "candidates: [two, one]")
CALLER = Account("acme", "default", "k", "p", frozenset())


async def fetch() -> Sequence[ModelCard]:
    return [ModelCard("one", Task.GENERATE), ModelCard("two", Task.GENERATE)]


class Bench:
    """A followed file over a real database."""

    def __init__(self, path: Path, store: SqlAccounts, models: Models) -> None:
        file = ConfigurationFile(path)
        self.path = path
        self.store = store
        self.declaration = Declaration(store)
        self.live = LiveConfiguration(file.first(), file.latest, lambda: models.catalogue, self.apply)
        self.router = Router(models, lambda: self.live.current.routes, Cooldowns(CooldownPolicy()))

    async def apply(self, configuration: Configuration) -> None:
        await self.declaration.apply(declared_tenants(configuration))

    async def acme(self) -> Tenant:
        tenant = await self.store.tenant("acme")
        assert tenant is not None
        return tenant

    def write(self, text: str) -> None:
        part = self.path.with_name("new")
        part.write_text(text)
        part.replace(self.path)


@asynccontextmanager
async def following(folder: Path) -> AsyncIterator[Bench]:
    path = folder / "gateway.yaml"
    path.write_text(FIRST)
    models = Models(fetch)
    await models.refresh()
    async with SqlAccounts.open(f"sqlite+aiosqlite:///{folder}/gateway.db") as store:
        bench = Bench(path, store, models)
        watching = asyncio.create_task(bench.live.watch())
        try:
            await eventually(lambda: watching.done() or bench.live._waiting is None)
            yield bench
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


async def test_a_change_is_in_the_database_and_in_the_routes_within_5_s_and_no_request_fails(tmp_path: Path) -> None:
    async with following(tmp_path) as bench:
        assert (await bench.acme()).limits == Limits(budget_day_nanos=1_250_000_000)
        assert (await bench.acme()).source == FROM_FILE
        planned: list[tuple[str, ...]] = []
        bench.write(SECOND)
        began = time.monotonic()

        def served() -> bool:
            plan = bench.router.plan("smart", Needs(), CALLER)
            planned.append(tuple(card.name for card in plan.candidates))
            return planned[-1] == ("two", "one")

        await eventually(served, LIVE_S)
        assert time.monotonic() - began < LIVE_S
        assert set(planned) == {("one",), ("two", "one")}
        assert (await bench.acme()).limits == Limits(budget_day_nanos=2_500_000_000)


async def test_a_wrong_file_changes_nothing_and_is_reported(tmp_path: Path) -> None:
    async with following(tmp_path) as bench:
        before = bench.live.current
        bench.write(SECOND.replace("[two, one]", "[two, onee]"))
        await eventually(lambda: bool(bench.live.report.problems), LIVE_S)
        assert bench.live.report.problems == ("routes.smart.candidates[1]: no model 'onee' is in the catalogue",)
        assert bench.live.current is before
        assert (await bench.acme()).limits == Limits(budget_day_nanos=1_250_000_000)


async def test_several_workers_apply_the_same_file_and_it_is_done_once(tmp_path: Path) -> None:
    async with following(tmp_path) as bench:
        version = (await bench.acme()).version
        configuration = ConfigurationFile(bench.path).first()
        await asyncio.gather(*(Declaration(bench.store).apply(declared_tenants(configuration)) for _ in range(4)))
        assert (await bench.acme()).version == version
