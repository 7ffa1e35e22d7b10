"""Three gateways on one Redis and one database: no budget or rate is passed on any door, and the ledger has every call.

Needs redis-server; on PostgreSQL, too, where PENSTOCK_TEST_POSTGRES names one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from paid_doors import (
    CHAT_MODEL,
    CHATS,
    EMBEDDINGS,
    ENCODER,
    KNOWLEDGE_BASE,
    PACED_MODEL,
    PIPELINES,
    TENSORS,
    Billed,
    Door,
    Lines,
    paced,
)
from paid_upstream import Book, PaidUpstream, running_paid_upstream
from servicekit.testing import eventually
from shared_gateways import Fleet, Redis, running_fleet, running_redis, shared_database
from stack_process import ROOT, RunningStack, running_stack
from tenancy import Administration, Key, session

PORT_OFFSET = 14_000
GATEWAYS = 3
CALLERS = 200
AFFORDABLE = 10
PER_MINUTE = 100
WINDOW_S = 55
LEASE_S = 900
INPUT_NANOS, OUTPUT_NANOS = 1_000_000, 2_000_000
"""What a token costs: 1,000 and 2,000 dollars a million."""

PRICE = {"input_usd_per_million": 1000, "output_usd_per_million": 2000}
DOCUMENT = "Turbine 7 is turned by the water of the penstock. The plant at the river has four turbines."
DOORS = CHATS | EMBEDDINGS | PIPELINES
pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("local_processes")]


@dataclass(frozen=True, slots=True)
class Plant:
    """What the tests work with: three gateways, what they share, and who is paid."""

    fleet: Fleet
    redis: Redis
    upstream: PaidUpstream

    @asynccontextmanager
    async def administration(self) -> AsyncIterator[Administration]:
        """The admin API of the first gateway."""
        first = self.fleet.gateways[0]
        async with session(first, first.admin_key) as made:
            yield Administration(made)

    @asynccontextmanager
    async def lines(self, key: Key) -> AsyncIterator[list[Lines]]:
        """Connections to every gateway, when every one has heard of the key."""
        async with AsyncExitStack() as opened:
            made = []
            for gateway in self.fleet.gateways:
                rest = await opened.enter_async_context(session(gateway, key.text))
                rest.timeout = httpx.Timeout(120)
                channel = await opened.enter_async_context(grpc.aio.insecure_channel(gateway.grpc))
                made.append(Lines(rest, channel, key.metadata))
            yield made

    def budgets_of(self, tenant: str) -> str:
        """Return where Redis has what a tenant spent and has reserved."""
        return f"penstock:{{limits:{tenant}}}:b:tenant:{tenant}"

    def leases_of(self, tenant: str) -> str:
        """Return where Redis has what a tenant has open."""
        return f"penstock:{{limits:{tenant}}}:l:tenant:{tenant}"


def catalogue(folder: Path, upstream: PaidUpstream) -> Path:
    """Write the local catalogue with a price on the encoder, and models of the paid upstream in it."""
    known = yaml.safe_load((ROOT / "deploy/local/catalogue.yaml").read_text())
    for model in known["models"]:
        if model["name"] == ENCODER:
            model["price"] = {**PRICE, "output_usd_per_million": 0}
    for name in (CHAT_MODEL, PACED_MODEL):
        model = {"name": name, "task": "generate", "openai": {"upstream": "paid", "model": name}}
        queue = {"max_concurrent": 256, "max_waiting": 1024}
        known["models"].append(model | {"context_tokens": 32768, "timeout_s": 60, "price": PRICE, "queue": queue})
    known["upstreams"] = {"paid": {"base_url": f"{upstream.url}/v1"}}
    file = folder / "catalogue.yaml"
    file.write_text(yaml.safe_dump(known))
    return file


@pytest.fixture(scope="module")
def upstream() -> Iterator[PaidUpstream]:
    """Who is paid."""
    with running_paid_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """What holds the limits."""
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def paid_stack(
    redis: Redis,
    upstream: PaidUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningStack]:
    """Everything behind the gateways."""
    folder = tmp_path_factory.mktemp("paid")
    with running_stack(folder, PORT_OFFSET, {"PENSTOCK_CATALOGUE": str(catalogue(folder, upstream))}) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def plant(
    request: pytest.FixtureRequest,
    redis: Redis,
    upstream: PaidUpstream,
    paid_stack: RunningStack,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Plant]:
    """Three gateways over each kind of database."""
    folder = tmp_path_factory.mktemp(request.param)
    redis.ask("FLUSHALL")
    with shared_database(request.param, folder) as url:
        settings = {"DATABASE_URL": url, "REDIS_URL": redis.url, "TRACE_RATIO": "0.01"}
        with running_fleet(paid_stack, folder, settings, GATEWAYS) as fleet:
            yield Plant(fleet, redis, upstream)


async def rows_of(administration: Administration, tenant: str, count: int) -> list[dict[str, Any]]:
    """Return the rows of a tenant, documents aside, once there are so many; assert that there are no more."""
    rows: list[dict[str, Any]] = []

    async def enough() -> bool:
        rows[:] = [row for row in await administration.attempts(tenant) if row["kind"] != "ingest"]
        return len(rows) >= count

    await eventually(enough, timeout_s=30)
    assert len(rows) == count
    return rows


async def at_once(door: Door, lines: list[Lines]) -> list[Billed]:
    """Let 200 callers ask at once, spread over the gateways, then one after another until nothing is left."""
    calls = (door(lines[caller % GATEWAYS], caller) for caller in range(CALLERS))
    billed = [each for each in await asyncio.gather(*calls) if each is not None]
    caller = CALLERS
    while (more := await door(lines[caller % GATEWAYS], caller)) is not None:
        billed.append(more)
        caller += 1
    return billed


async def open_knowledge_base(lines: Lines) -> None:
    """Give pipelines something to answer from."""
    document = {"id": "d", "media_type": "text/plain", "text": DOCUMENT}
    response = await lines.rest.post(f"/v1/knowledge-bases/{KNOWLEDGE_BASE}/documents", json={"documents": [document]})
    assert response.status_code == 200, response.text


async def costs_of(plant: Plant, administration: Administration, name: str) -> tuple[dict[str, Any], int]:
    """Return the row of one call of a tenant without limits, to know what one costs, and what its documents cost."""
    tenant = await administration.tenant()
    async with plant.lines(await administration.key(tenant)) as lines:
        if name in PIPELINES:
            await open_knowledge_base(lines[0])
        assert await DOORS[name](lines[0], 0) is not None
    (row,) = await rows_of(administration, tenant, 1)
    _, cost_nanos = await administration.cost_nanos(tenant)
    return row, cost_nanos - row["cost_nanos"]


@pytest.mark.parametrize("name", DOORS)
async def test_a_budget_for_ten_pays_for_ten(plant: Plant, name: str) -> None:
    async with plant.administration() as administration:
        one, beside_nanos = await costs_of(plant, administration, name)
        assert one["reserved_nanos"] >= one["cost_nanos"] > 0
        budget = max(AFFORDABLE * one["cost_nanos"], one["reserved_nanos"] + AFFORDABLE * one["cost_nanos"] // 2)
        tenant = await administration.tenant({"budget_day_usd": f"{(budget + beside_nanos) / 1e9:.9f}"})
        async with plant.lines(await administration.key(tenant)) as lines:
            if name in PIPELINES:
                await open_knowledge_base(lines[0])
            plant.upstream.reset()
            billed = await at_once(DOORS[name], lines)
        rows = await rows_of(administration, tenant, len(billed))
        _, cost_nanos = await administration.cost_nanos(tenant)
    check_rows(rows, billed, budget)
    assert cost_nanos == spent_of(rows) + beside_nanos
    if name not in EMBEDDINGS:
        assert plant.upstream.book() == Book(calls=len(rows), **in_all(billed))
    assert plant.redis.ask("HMGET", plant.budgets_of(tenant), "ds", "dr") == [str(cost_nanos), "0"]
    check_all_was_counted_together(plant)


def in_all(billed: list[Billed]) -> dict[str, int]:
    """Return the tokens that callers were told of, together."""
    read, written = sum(each.input_tokens for each in billed), sum(each.output_tokens for each in billed)
    return {"input_tokens": read, "output_tokens": written}


def spent_of(rows: list[dict[str, Any]]) -> int:
    """Return what the rows cost."""
    return sum(row["cost_nanos"] for row in rows)


def check_rows(rows: list[dict[str, Any]], billed: list[Billed], budget: int) -> None:
    """Assert that rows are what callers were told of, and that the budget was used up and not passed."""
    spent, most, told = spent_of(rows), max(row["reserved_nanos"] for row in rows), in_all(billed)
    print(f"{len(rows)} calls, {spent / budget:.1%} of the budget; one reserves {most / budget:.1%} of it")
    assert {row["status"] for row in rows} == {"ok"}
    assert {name: sum(row[name] for row in rows) for name in told} == told
    assert spent == told["input_tokens"] * INPUT_NANOS + told["output_tokens"] * OUTPUT_NANOS
    assert [row["id"] for row in rows if row["cost_nanos"] > row["reserved_nanos"]] == []
    assert budget - most < spent <= budget


def check_all_was_counted_together(plant: Plant) -> None:
    """Assert that no gateway decided anything without Redis."""
    for place in range(GATEWAYS):
        assert plant.fleet.metric(place, "penstock_gateway_limit_store_failures_total") == 0
        assert plant.fleet.metric(place, "penstock_gateway_limit_fallbacks_total") == 0


@pytest.mark.parametrize("name", [*TENSORS, "every door"])
async def test_a_hundred_a_minute_are_a_hundred(plant: Plant, name: str) -> None:
    doors = list((CHATS | EMBEDDINGS | TENSORS).values()) if name == "every door" else [TENSORS[name]]
    async with plant.administration() as administration:
        tenant = await administration.tenant({"requests_per_minute": PER_MINUTE})
        async with plant.lines(await administration.key(tenant)) as lines:
            start_s = time.monotonic()
            calls = (doors[n % len(doors)](lines[n % GATEWAYS], n) for n in range(CALLERS))
            answered = [each for each in await asyncio.gather(*calls) if each is not None]
            assert time.monotonic() - start_s < WINDOW_S
        rows = await rows_of(administration, tenant, len(answered))
    print(f"{len(answered)} of {CALLERS} calls let in")
    assert PER_MINUTE - 2 <= len(answered) <= PER_MINUTE + 2
    assert {row["status"] for row in rows} == {"ok"}
    check_all_was_counted_together(plant)


@pytest.mark.parametrize("amid", [True, False], ids=["amid streams", "at their ends"])
async def test_a_gateway_that_is_killed_leaves_no_call_unpaid_and_no_reservation(plant: Plant, amid: bool) -> None:
    victim = GATEWAYS - 1
    async with plant.administration() as administration:
        tenant = await administration.tenant({"budget_day_usd": 1000, "concurrent_requests": CALLERS})
        async with plant.lines(await administration.key(tenant)) as lines:
            plant.upstream.reset()
            calls = asyncio.gather(
                *(paced(lines[caller % GATEWAYS], caller) for caller in range(CALLERS)), return_exceptions=True
            )
            await eventually(lambda: all_have_begun(plant.upstream.book()), timeout_s=30)
            if not amid:
                await eventually(lambda: first_have_ended(plant.upstream.book()), timeout_s=30)
            plant.fleet.kill(victim)
            ended = await calls
            await eventually(lambda: plant.upstream.book().open == 0, timeout_s=30)
            rows = await adopted(plant, administration, tenant)
            await check_the_dead_have_paid(plant, administration, rows, ended)
            await check_leases_end(plant, lines[0], tenant, rows)
            plant.fleet.start(victim)
            plant.fleet.await_ready(victim)
            await eventually(lambda: knows_models(lines[victim]), timeout_s=10)
            assert await paced(lines[victim], 0) is not None


def all_have_begun(book: Book) -> bool:
    """Say whether there are more calls than the callers of all gateways but one can make."""
    return book.calls > CALLERS - CALLERS // GATEWAYS


def first_have_ended(book: Book) -> bool:
    """Say whether some of the callers' streams are at their ends."""
    return book.calls - book.open >= CALLERS // 4


async def knows_models(lines: Lines) -> bool:
    """Say whether a gateway that has just started knows what there is to ask."""
    return (await lines.rest.get("/v1/models")).status_code == 200


async def adopted(plant: Plant, administration: Administration, tenant: str) -> list[dict[str, Any]]:
    """Return a tenant's rows when nothing is left in the journal of the dead, and nothing on its way."""
    await eventually(lambda: len([each for each in plant.fleet.journals.iterdir() if each.is_dir()]) < GATEWAYS, 30)
    rows: list[dict[str, Any]] = []

    async def no_more() -> bool:
        before = len(rows)
        rows[:] = await administration.attempts(tenant)
        return before == len(rows) >= plant.upstream.book().calls

    await eventually(no_more, timeout_s=30)
    return rows


async def check_the_dead_have_paid(
    plant: Plant, administration: Administration, rows: list[dict[str, Any]], ended: list[Any]
) -> None:
    """Assert that callers of others noticed nothing, and that each attempt of the dead gateway has one row.

    When it died an attempt may have been written down and not asked for yet, or be answered and not ended: abandoned
    both times. It may have ended, and its caller not heard of it: paid.
    """
    book = plant.upstream.book()
    lost = [row for row in rows if row["status"] == "abandoned"]
    paid = [row for row in rows if row["status"] == "ok"]
    whole = [each for each in ended if isinstance(each, Billed)]
    broken = [place % GATEWAYS for place, each in enumerate(ended) if not isinstance(each, Billed)]
    print(f"{len(ended)} calls: {len(whole)} whole, {book.calls} asked upstream, {book.cut} cut; {len(lost)} abandoned")
    assert set(broken) <= {GATEWAYS - 1}, ended
    assert len({row["id"] for row in rows}) == len(rows) == len(paid) + len(lost)
    assert book.cut <= len(lost) <= len(broken)
    assert len(whole) <= len(paid) <= book.calls <= len(rows)
    assert {row["reason"] for row in lost} <= {"process_died"}
    assert all(row["cost_nanos"] == row["reserved_nanos"] for row in lost)
    assert {Billed(row["input_tokens"], row["output_tokens"]) for row in paid} == set(whole)
    assert await administration.cost_nanos(rows[0]["tenant"]) == (len(rows), spent_of(rows))


async def check_leases_end(plant: Plant, lines: Lines, tenant: str, rows: list[dict[str, Any]]) -> None:
    """Assert that what the dead had reserved is settled by whoever took over its journal, and its slots are free.

    It may have died between reserving and writing down: that stands until its lease ends, and is spent.
    """
    lost = {row["id"] for row in rows if row["status"] == "abandoned"}

    def open_ones() -> list[str]:
        return plant.redis.ask("ZRANGE", plant.leases_of(tenant), "0", "-1", "WITHSCORES")

    await eventually(lambda: not lost & {name.split("|")[0] for name in open_ones()[::2]}, timeout_s=10)
    names, ends_s = open_ones()[::2], [float(end) / 1e6 for end in open_ones()[1::2]]
    unwritten_nanos = sum(int(name.split("|")[1]) for name in names)
    print(f"{len(names)} were reserved and not yet written down")
    assert all(0 < end_s - time.time() <= LEASE_S for end_s in ends_s)
    assert int(plant.redis.ask("HGET", plant.budgets_of(tenant), "dr")) == unwritten_nanos
    for name in names:  # as if the time had come
        plant.redis.ask("ZADD", plant.leases_of(tenant), "0", name)
    last = await paced(lines, 0)
    assert last is not None
    cost = last.input_tokens * INPUT_NANOS + last.output_tokens * OUTPUT_NANOS + unwritten_nanos
    assert plant.redis.ask("HMGET", plant.budgets_of(tenant), "ds", "dr") == [str(spent_of(rows) + cost), "0"]
    assert plant.redis.ask("ZCARD", plant.leases_of(tenant)) == 0
