"""A running gateway per test, and an HTTP client with its key."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from gateway_fakes import Gateway, running
from gateway_ledger_fakes import database


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database of each kind; PostgreSQL where there is a server."""
    async with database(request.param, tmp_path / "new") as url:
        yield url


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
