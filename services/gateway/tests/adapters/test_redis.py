"""Limits in a real Redis: many processes, a server that dies, hangs, forgets, or is a cluster."""

import asyncio
import multiprocessing
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from itertools import count
from pathlib import Path

import pytest
import uvloop
from gateway.adapters.redis import RedisLimits, redis_limits
from gateway.adapters.redis_link import RedisLink, RedisUnavailable
from gateway.core.accounts import Limits
from gateway.core.limit_breaker import GuardedLimits
from gateway.core.local_limits import LocalLimits
from gateway.core.metering import BudgetExhausted, Estimate, Meter, RateLimited
from gateway_limit_fakes import FakeSpend, HandClock, RedisServer, account, redis_server, redis_store

WIDE = Limits(10**6, 10**9, 10**6, 10**12, 10**12)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as started:
        yield started


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisLimits]:
    async with redis_store(server, lambda: 0.0) as opened:
        yield opened


def command(server: RedisServer, *words: str) -> list[str]:
    """Ask the server over a connection of its own; return the lines of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\nQUIT\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer.decode().split("\r\n")[:-2]


def many_callers(url: str, name: str, results: "multiprocessing.Queue[tuple[int, int]]") -> None:
    """Be a gateway process: 100 calls at once against the rate, 100 against the budget."""

    async def run() -> tuple[int, int]:
        rated = account(tenant=Limits(requests_per_minute=100), name="rated")
        paying = account(tenant=Limits(budget_day_nanos=10_000), key=Limits(budget_month_nanos=50_000), name="paying")
        spent = 0
        async with redis_limits(url, timeout_s=10) as store:
            meter = Meter(store, FakeSpend())

            async def call(number: int) -> bool:
                try:
                    await meter.reserve(rated, f"{name}-{number}", Estimate(1, 0))
                except RateLimited:
                    return False
                return True

            async def pay(number: int) -> int:
                try:
                    held = await meter.reserve(paying, f"{name}-{number}", Estimate(1, 1000))
                except BudgetExhausted:
                    return 0
                await asyncio.sleep(0)
                await meter.settle(held, 1, 700 + number % 300)
                return 700 + number % 300

            let_in = sum(await asyncio.gather(*(call(number) for number in range(100))))
            for start in range(0, 100, 20):
                spent += sum(await asyncio.gather(*(pay(number) for number in range(start, start + 20))))
        return let_in, spent

    results.put(asyncio.run(run()))


def test_three_processes_share_one_limit_and_one_budget(server: RedisServer) -> None:
    forking = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[tuple[int, int]] = forking.Queue()
    processes = [forking.Process(target=many_callers, args=(server.url, f"p{n}", results)) for n in range(3)]
    for process in processes:
        process.start()
    told = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(10)
        assert process.exitcode == 0
    results.close()
    assert sum(let_in for let_in, _ in told) == 100
    spent = sum(cost for _, cost in told)
    assert 10_000 - 1000 < spent <= 10_000
    assert command(server, "HGET", "penstock:{limits:paying}:b:tenant:paying", "ds")[-1] == str(spent)
    assert command(server, "HGET", "penstock:{limits:paying}:b:tenant:paying", "dr")[-1] == "0"


async def test_every_key_expires_and_carries_the_tag_of_its_tenant(server: RedisServer, store: RedisLimits) -> None:
    meter, who = Meter(store, FakeSpend()), account(WIDE, WIDE, WIDE)
    open_call = await meter.reserve(who, "a", Estimate(10, 10))
    await meter.settle(await meter.reserve(who, "b", Estimate(10, 10)), 20, 5)
    keys = [line for line in command(server, "KEYS", "*") if line.startswith("penstock")]
    assert len(keys) == 12
    for key in keys:
        assert re.match(r"penstock:\{limits:acme\}:[rtlb]:(tenant|project|key):acme", key)
        assert 0 < int(command(server, "TTL", key)[0].removeprefix(":")) <= 4200
    await meter.settle(open_call, 1, 1)


async def test_a_server_that_forgot_the_scripts_learns_them_again(server: RedisServer, store: RedisLimits) -> None:
    meter, who = Meter(store, FakeSpend()), account(key=Limits(requests_per_minute=2, concurrent_requests=9))
    first = await meter.reserve(who, "a", Estimate(1, 1))
    command(server, "SCRIPT", "FLUSH")
    await meter.settle(first, 1, 1)
    command(server, "SCRIPT", "FLUSH")
    await meter.reserve(who, "b", Estimate(1, 1))
    with pytest.raises(RateLimited):
        await meter.reserve(who, "c", Estimate(1, 1))


async def test_a_server_that_forgot_everything_asks_the_ledger(server: RedisServer, store: RedisLimits) -> None:
    spend, who = FakeSpend(), account(tenant=Limits(budget_month_nanos=1000))
    meter = Meter(store, spend)
    spend.book(who, 400)
    before = await meter.reserve(who, "a", Estimate(1, 300))
    command(server, "FLUSHALL")
    other = await meter.reserve(who, "b", Estimate(1, 100))
    await meter.settle(before, 1, 300)
    await meter.settle(other, 1, 100)
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "c", Estimate(1, 201))
    await meter.reserve(who, "d", Estimate(1, 200))


async def test_a_cluster_takes_all_keys_of_a_tenant_at_once(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--cluster-enabled", "yes") as server:
        assert command(server, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")[0] == "+OK"
        end = time.monotonic() + 10
        while "cluster_state:ok" not in command(server, "CLUSTER", "INFO"):
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        async with redis_limits(server.url, 5) as store:
            meter = Meter(store, FakeSpend())
            for name in ("acme", "", "a}b", "{x}"):
                held = await meter.reserve(account(WIDE, WIDE, WIDE, name), "a", Estimate(10, 10))
                await meter.renew(held)
                await meter.settle(held, 20, 5)


async def test_a_server_that_hangs_holds_nobody_longer_than_the_timeout(server: RedisServer) -> None:
    async with redis_limits(server.url, timeout_s=0.1) as store:
        meter, who = Meter(store, FakeSpend()), account(key=Limits(requests_per_minute=1000))
        await meter.reserve(who, "warm", Estimate(1, 1))
        server.pause()
        start = time.monotonic()
        answers = await asyncio.gather(
            *(meter.reserve(who, f"a{n}", Estimate(1, 1)) for n in range(50)), return_exceptions=True
        )
        assert time.monotonic() - start < 50 * 0.1  # what one after another would take
        assert {type(answer) for answer in answers} == {RedisUnavailable}
        server.resume()
        end = time.monotonic() + 5
        while True:
            try:
                await meter.reserve(who, "b", Estimate(1, 1))
                break
            except RedisUnavailable:
                assert time.monotonic() < end


async def test_a_busy_loop_is_not_taken_for_a_slow_server(server: RedisServer) -> None:
    async with redis_limits(server.url, timeout_s=0.1) as store:
        meter, who = Meter(store, FakeSpend()), account(key=Limits(requests_per_minute=1000))
        await meter.reserve(who, "warm", Estimate(1, 1))
        asked = asyncio.create_task(meter.reserve(who, "a", Estimate(1, 1)))
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251  what holds up the loop is what is tested
        assert (await asked).is_open


async def test_a_busy_loop_finds_the_time_to_connect(server: RedisServer) -> None:
    """Every turn of the loop takes nearly as long as a question may, and a connection takes several turns."""
    loop = asyncio.get_running_loop()
    until_s = time.monotonic() + 2

    def hog() -> None:
        time.sleep(0.04)
        if time.monotonic() < until_s:
            loop.call_soon(hog)

    async with redis_limits(server.url, timeout_s=0.05) as store:
        meter, who = Meter(store, FakeSpend()), account(key=Limits(requests_per_minute=1000))
        loop.call_soon(hog)
        held = await asyncio.gather(*(meter.reserve(who, f"a{number}", Estimate(1, 1)) for number in range(20)))
        until_s = 0
    assert len({each.id for each in held if each.is_open and each.grant}) == 20


async def test_answers_find_who_asked_though_others_left(server: RedisServer) -> None:
    async with redis_limits(server.url, timeout_s=5) as store:
        meter, accounts = (
            Meter(store, FakeSpend()),
            [account(key=Limits(requests_per_minute=n + 1), name=f"n{n}") for n in range(50)],
        )
        tasks = [asyncio.create_task(meter.reserve(who, "a", Estimate(1, 0))) for who in accounts]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for number, answer in list(enumerate(answers))[1::2]:
            assert not isinstance(answer, BaseException)
            assert answer.requests is not None
            assert (answer.requests.limit, answer.requests.remaining) == (number + 1, number)


async def test_a_server_that_dies_is_found_again_when_it_is_back(server: RedisServer) -> None:
    clock, spend, who = HandClock(), FakeSpend(), account(tenant=Limits(requests_per_minute=30, budget_day_nanos=9000))
    numbers = count()
    async with redis_limits(server.url, timeout_s=1) as shared:
        local = LocalLimits(clock.running, time.time, processes=3)
        store = GuardedLimits(shared, local, failures=3, open_s=5, clock=clock.running)
        meter = Meter(store, spend, clock.running)

        async def call() -> int:
            """Spend 100; the ledger knows first, as in the gateway."""
            held = await meter.reserve(who, f"c{next(numbers)}", Estimate(1, 100))
            spend.book(who, 100)
            await meter.settle(held, 1, 100)
            return 100

        spent = await call() + await call()
        caught = await meter.reserve(who, "caught", Estimate(1, 100))
        server.kill()
        spent += await call() + await call() + await call()
        assert store.is_open
        for _ in range(7):
            spent += await call()
        with pytest.raises(RateLimited):
            await call()
        spend.book(who, 100)
        await meter.settle(caught, 1, 100)
        server.start()
        clock.turn(6)
        spent += await call() + 100
        assert not store.is_open
        await meter.reserve(who, "rest", Estimate(1, 9000 - spent))
        with pytest.raises(BudgetExhausted):
            await meter.reserve(who, "more", Estimate(1, 1))


async def test_a_server_that_hangs_is_left_alone_and_slots_come_back(server: RedisServer) -> None:
    clock, who = HandClock(), account(key=Limits(concurrent_requests=4))
    async with redis_limits(server.url, timeout_s=0.1) as shared:
        store = GuardedLimits(shared, LocalLimits(processes=2), failures=3, open_s=5, clock=clock.running)
        meter = Meter(store, FakeSpend(), clock.running)
        held = [await meter.reserve(who, f"a{number}", Estimate(1, 1)) for number in range(4)]
        server.pause()
        start = time.monotonic()
        for reservation in held:
            await meter.settle(reservation, 1, 1)
        for number in range(100):
            await meter.release(await meter.reserve(who, f"b{number}", Estimate(1, 1)))
        assert time.monotonic() - start < 100 * 0.1  # what they would take if each asked it
        server.resume()
        clock.turn(6)
        end = time.monotonic() + 5
        while store.is_open:
            await meter.release(await meter.reserve(who, f"c{end - time.monotonic()}", Estimate(1, 1)))
            assert time.monotonic() < end
        held = [await meter.reserve(who, f"d{number}", Estimate(1, 1)) for number in range(4)]
        with pytest.raises(RateLimited):
            await meter.reserve(who, "more", Estimate(1, 1))


async def test_a_clock_of_the_server_that_goes_back_keeps_no_dead_lease_for_ever(server: RedisServer) -> None:
    clock, who = HandClock(), account(key=Limits(concurrent_requests=1))
    async with redis_store(server, clock.shift_s) as store:
        meter = Meter(store, FakeSpend(), clock.running)
        await meter.reserve(who, "dead", Estimate(1, 1))
        clock.turn(-100_000)
        with pytest.raises(RateLimited):
            await meter.reserve(who, "a", Estimate(1, 1))
        clock.turn(3601)
        await meter.reserve(who, "b", Estimate(1, 1))


async def test_a_password_is_used_and_never_shown(tmp_path: Path) -> None:
    who = account(key=Limits(requests_per_minute=1000))
    with redis_server(tmp_path, "--requirepass", "opensesame") as server:
        async with redis_limits(server.url.replace("//", "//:opensesame@").replace("/0", "/3"), 5) as store:
            assert (await Meter(store, FakeSpend()).reserve(who, "a", Estimate(1, 1))).is_open
        async with redis_limits(server.url.replace("//", "//:wrongword@"), 5) as store:
            with pytest.raises(RedisUnavailable) as refused:
                await Meter(store, FakeSpend()).reserve(who, "b", Estimate(1, 1))
            assert "wrongword" not in str(refused.value)
        async with redis_limits(server.url, 5) as store:
            with pytest.raises(RedisUnavailable):
                await Meter(store, FakeSpend()).reserve(who, "c", Estimate(1, 1))


async def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="redis://"):
        RedisLink("http://127.0.0.1:1", 1)


async def test_garbage_from_the_server_ends_the_connection_only() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as impostor:
        port = impostor.sockets[0].getsockname()[1]
        async with redis_limits(f"redis://127.0.0.1:{port}", 2) as store:
            for _ in range(3):
                with pytest.raises(RedisUnavailable):
                    await Meter(store, FakeSpend()).reserve(account(key=WIDE), "a", Estimate(1, 1))


@pytest.mark.parametrize(
    "test",
    [
        test_a_server_that_hangs_holds_nobody_longer_than_the_timeout,
        test_a_busy_loop_is_not_taken_for_a_slow_server,
        test_a_busy_loop_finds_the_time_to_connect,
        test_answers_find_who_asked_though_others_left,
        test_a_server_that_dies_is_found_again_when_it_is_back,
    ],
)
def test_the_loop_that_the_gateway_runs_on_does_it_too(
    server: RedisServer, test: Callable[..., Coroutine[None, None, None]]
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)
        runner.run(test(server))
