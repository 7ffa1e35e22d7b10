"""Every test here runs on a store in memory and on one in a real Redis."""

from collections.abc import AsyncIterator, Iterator

import pytest
from gateway.core.limit_ports import (
    LimitStore,
)
from gateway.core.metering import Meter
from gateway_limit_fakes import FakeSpend, HandClock, RedisServer, local_store, redis_server, redis_store


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def spend() -> FakeSpend:
    return FakeSpend()


@pytest.fixture(params=["local", "redis"])
async def store(request: pytest.FixtureRequest, clock: HandClock) -> AsyncIterator[LimitStore]:
    if request.param == "local":
        yield local_store(clock)
        return
    async with redis_store(request.getfixturevalue("redis"), clock.shift_s) as opened:
        yield opened


@pytest.fixture
def meter(store: LimitStore, spend: FakeSpend, clock: HandClock) -> Meter:
    return Meter(store, spend, clock.running)
