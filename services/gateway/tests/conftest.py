"""A running gateway per test, and an HTTP client with its key."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy
from gateway.adapters.sql import sqlite_url
from gateway_fakes import Gateway, running
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.ext.asyncio import create_async_engine


class Databases(BaseSettings):
    """Real databases that tests may use: PENSTOCK_TEST_POSTGRES is postgresql://USER@HOST:PORT/NAME."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_TEST_")
    postgres: str = ""


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database of each kind; PostgreSQL where there is a server."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "new" / "gateway.db")
        return
    server = Databases().postgres
    if not server:
        pytest.skip("PENSTOCK_TEST_POSTGRES names no server")
    url = sqlalchemy.make_url(server).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    name = f"test_{secrets.token_hex(8)}"
    async with engine.connect() as connection:
        await connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield sqlalchemy.make_url(server).set(database=name).render_as_string(hide_password=False)
        await connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    await engine.dispose()


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
