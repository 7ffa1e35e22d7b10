"""A running gateway per test, and an HTTP client with its key."""

from collections.abc import AsyncIterator

import httpx
import pytest
from gateway_fakes import Gateway, running


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway on free ports over fake services."""
    async with running() as started:
        yield started


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its REST door."""
    headers = {"Authorization": f"Bearer {gateway.key}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=10) as client:
        yield client
