"""Accounts in real databases, SQLite and PostgreSQL; the same tests hold the fake to them."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from gateway.adapters import sql
from gateway.adapters.sql import go_back, migrate, open_engine, sqlite_url
from gateway.adapters.sql_accounts import SqlAccounts
from gateway.adapters.tables import metadata
from gateway.core.accounts import Limits, Priority
from gateway.core.changes import Change, Page, Write
from gateway.core.key_ring import KeyRing
from gateway.core.keys import KeyGrant
from gateway.core.ports import AdminStore
from gateway.core.tenants import DEFAULT_PROJECT, FROM_FILE, Project, Tenancy, Tenant
from gateway_account_fakes import START, FakeAccounts, new_key
from gateway_ledger_fakes import database
from servicekit.errors import Conflict, Unavailable
from servicekit.sql import UnknownSchema

LIMITS = Limits(60, 1_000_000, 0, 12_345_678_901, 9_000_000 * 10**9)
OLD_SCHEMA = """
CREATE TABLE api_keys (public_id VARCHAR(32) NOT NULL PRIMARY KEY, secret_hash VARCHAR(64) NOT NULL,
  tenant VARCHAR(64) NOT NULL, name VARCHAR(128) NOT NULL, scopes VARCHAR(512) NOT NULL, role VARCHAR(16) NOT NULL,
  created_at DATETIME NOT NULL, expires_at DATETIME, revoked_at DATETIME);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant);
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
"""


@pytest.fixture(params=["sqlite", "postgresql", "fake"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AdminStore]:
    if request.param == "fake":
        yield FakeAccounts()
        return
    async with database(request.param, tmp_path) as url, SqlAccounts.open(url) as opened:
        yield opened


def tenant(name: str = "acme", **changes) -> Tenant:
    made = Tenant(name, START, LIMITS, ("writer", "org/*"), "eu-west", Priority.STANDARD, FROM_FILE)
    return replace(made, **changes)


def project(tenant: str = "acme", name: str = DEFAULT_PROJECT) -> Project:
    return Project(tenant, name, START, LIMITS, ())


def change(action: str, tenant: str = "acme") -> Change:
    return Change(START, "boss-key boss", "acme", action, tenant, "x", None, {"limits": {"tokens_per_minute": 5}})


async def test_what_was_written_is_found_in_one_look_up(store: AdminStore) -> None:
    key, _ = new_key(limits=LIMITS, models=("a*",), priority=Priority.BATCH, replaces="r", line="l", expires_at=START)
    assert await store.find(key.public_id) is None
    await store.commit([Write(tenant()), Write(project()), Write(key)], [])
    assert await store.find(key.public_id) == KeyGrant(key, Tenancy(tenant(), project()))
    assert await store.find_tenancy("acme", DEFAULT_PROJECT) == Tenancy(tenant(), project())
    assert await store.find_tenancy("acme", "other") is None
    assert await store.tenant("acme") == tenant()
    assert await store.tenant("none") is None


async def test_a_write_is_made_for_one_version(store: AdminStore) -> None:
    await store.commit([Write(tenant())], [change("one")])
    second = tenant(version=2, models=None, region="", limits=Limits(), highest_priority=Priority.BATCH)
    await store.commit([Write(second, over=1)], [change("two")])
    assert await store.tenant("acme") == second
    for stale in (Write(tenant(version=3), over=1), Write(tenant())):
        with pytest.raises(Conflict):
            await store.commit([Write(tenant("late")), stale], [change("three")])
    assert await store.tenant("acme") == second
    assert await store.tenant("late") is None, "nothing of a refused commit is kept"
    assert [each.action for each in await store.changes(None, Page())] == ["two", "one"]


async def test_of_many_writes_for_a_version_one_is_made(store: AdminStore) -> None:
    await store.commit([Write(tenant())], [])
    tries = [store.commit([Write(tenant(version=2, region=f"r{n}"), over=1)], [change(str(n))]) for n in range(8)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 7
    assert len(await store.changes(None, Page())) == 1


async def test_lists_come_in_parts(store: AdminStore) -> None:
    for name in ("a", "b", "c"):
        await store.commit(
            [Write(tenant(name)), Write(project(name)), Write(project(name, "web"))], [change(name, name)]
        )
    keys = [new_key(tenant=name, project=place)[0] for name, place in (("a", "web"), ("a", "default"), ("b", "web"))]
    await store.commit([Write(key) for key in keys], [])
    ids = sorted(key.public_id for key in keys)
    assert [each.id for each in await store.tenants(Page(2))] == ["a", "b"]
    assert [each.id for each in await store.tenants(Page(2, "b"))] == ["c"]
    assert [each.id for each in await store.projects("a", Page(1, "default"))] == ["web"]
    assert [each.public_id for each in await store.keys(None, None, Page())] == ids
    assert [each.public_id for each in await store.keys(None, None, Page(5, ids[0]))] == ids[1:]
    assert {each.tenant for each in await store.keys("a", None, Page())} == {"a"}
    assert [each.public_id for each in await store.keys("a", "web", Page())] == [keys[0].public_id]
    newest = await store.changes(None, Page(2))
    assert [each.tenant for each in newest] == ["c", "b"]
    assert newest[0] == replace(change("c", "c"), id=newest[0].id)
    assert [each.tenant for each in await store.changes(None, Page(5, str(newest[-1].id)))] == ["a"]
    assert [each.tenant for each in await store.changes("b", Page())] == ["b"]


async def test_names_are_values_and_never_sql(store: AdminStore) -> None:
    await store.commit([Write(tenant()), Write(project()), Write(new_key()[0])], [])
    for hostile in ("' or '1'='1", "x'; drop table tenants; --", 'x" or 1=1'):
        assert await store.find(hostile) is None
        assert await store.find_tenancy(hostile, hostile) is None
        assert await store.keys(hostile, hostile, Page()) == []
    assert await store.tenant("acme") == tenant()


async def test_moments_are_utc_whatever_their_zone(store: AdminStore) -> None:
    moment = datetime.fromisoformat("2030-06-01T12:00:00.123456+05:00")
    key, _ = new_key(expires_at=moment)
    await store.commit([Write(tenant()), Write(project()), Write(key)], [])
    found = await store.find(key.public_id)
    assert found is not None
    assert found.key.expires_at == moment
    assert found.key.expires_at.tzinfo is not None


async def test_a_revocation_reaches_every_process_within_five_seconds(database_url: str) -> None:
    moment = START

    def turned_s() -> float:
        return moment.timestamp()

    async with SqlAccounts.open(database_url) as one, SqlAccounts.open(database_url) as other:
        key, text = new_key(created_at=START)
        await one.commit([Write(tenant()), Write(project()), Write(key)], [])
        rings = [KeyRing(store, lambda: moment, turned_s) for store in (one, other)]
        for ring in rings:
            assert (await ring.resolve(text)).key_id == key.public_id
        await one.commit([Write(replace(key, revoked_at=moment, version=2), over=1)], [])
        moment += timedelta(seconds=5)
        for ring in rings:
            with pytest.raises(Exception, match="not valid"):
                await ring.resolve(text)


async def test_several_processes_may_start_at_once(database_url: str) -> None:
    await asyncio.gather(*(migrate(database_url) for _ in range(4)))
    async with open_engine(database_url) as engine, engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(sync, opts={"include_name": of_accounts}), metadata
            )
        )
    assert differences == []


def of_accounts(name: str | None, kind: str, parents: object) -> bool:
    """Say whether the tables of accounts are what is meant; the ledger has its own."""
    return kind != "table" or name in metadata.tables


async def test_keys_of_before_there_were_tenants_go_on_working(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    key, text = new_key(tenant="old-one")
    with sqlite3.connect(path) as old:
        old.executescript(OLD_SCHEMA)
        row = (
            key.public_id,
            key.secret_hash,
            "old-one",
            "tester",
            "ask models",
            "member",
            "2025-01-02 03:04:05.000000",
        )
        old.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)", row)
    old.close()
    async with SqlAccounts.open(sqlite_url(path)) as store:
        account = await KeyRing(store).resolve(text)
        assert (account.tenant, account.project, account.key_id) == ("old-one", "default", key.public_id)
        assert (account.scopes, account.priority) == ({"ask", "models"}, Priority.STANDARD)
        assert account.allowlists == ()
        assert [subject.limits for subject in account.subjects] == [Limits()] * 3
        migrated = await store.tenant("old-one")
        assert migrated is not None
        assert migrated.created_at == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with sqlite3.connect(path) as old:
        old.executescript(OLD_SCHEMA)
        old.execute("CREATE TABLE admin_changes (id INTEGER PRIMARY KEY)")  # in the way of the second of three tables
    with pytest.raises(Unavailable):
        await migrate(sqlite_url(path))
    tables = {name for (name,) in old.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert "tenants" not in tables
    old.execute("DROP TABLE admin_changes")
    old.close()
    await migrate(sqlite_url(path))


def files_of(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    key, text = new_key()
    async with SqlAccounts.open(sqlite_url(path)) as store:
        await store.commit([Write(tenant()), Write(project()), Write(key)], [change("x")])
    content = b"".join(file.read_bytes() for file in files_of(tmp_path))
    assert key.public_id.encode() in content
    assert text.split("_", 2)[2].encode() not in content
    assert path.stat().st_mode & 0o077 == 0


async def test_a_broken_file_is_unavailable(tmp_path: Path) -> None:
    async with SqlAccounts.open(sqlite_url(tmp_path / "gateway.db")) as store:
        for file in files_of(tmp_path):
            file.write_bytes(b"not a database, not at all" * 400)
        with pytest.raises(Unavailable):
            await store.find("x")


async def test_a_server_that_is_not_there_is_unavailable_and_its_password_unsaid() -> None:
    with pytest.raises(Unavailable) as caught:
        await migrate("postgresql://me:hunter2secret@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_connections_to_a_server_are_bounded(database_url: str) -> None:
    async with open_engine(database_url, pool_size=2) as engine:
        store = SqlAccounts(engine)
        await asyncio.gather(*(store.find(f"{number}") for number in range(50)))
        count = sqlalchemy.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        async with engine.connect() as connection:
            assert (await connection.execute(count)).scalar_one() <= 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_connections_that_a_server_cut_are_made_anew(database_url: str) -> None:
    others = "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    cut = sqlalchemy.text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity {others}")
    async with open_engine(database_url) as engine, open_engine(database_url) as operator:
        store = SqlAccounts(engine)
        await asyncio.gather(*(store.find("x") for _ in range(5)))
        async with operator.connect() as connection:
            assert len((await connection.execute(cut)).all()) >= 1
        for _ in range(5):
            assert await store.find("x") is None


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "postgresql://host"])
async def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///PATH"):
        async with sql.open_engine(url):
            pass


async def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(database_url: str) -> None:
    await migrate(database_url)
    async with open_engine(database_url) as engine, engine.begin() as connection:
        await connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UnknownSchema, match="does not know") as refused:
        await migrate(database_url)
    assert "9999" in str(refused.value.__cause__)


async def test_the_tables_go_back_step_by_step_and_forward_again(database_url: str) -> None:
    key, text = new_key()
    async with SqlAccounts.open(database_url) as store:
        await store.commit([Write(tenant()), Write(project()), Write(key)], [change("x")])
    async with open_engine(database_url) as engine:
        for revision in ("0002", "0001"):
            await go_back(database_url, revision)
            async with engine.begin() as connection:
                found = await connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))
                kept = await connection.execute(sqlalchemy.text("SELECT public_id FROM api_keys"))
                assert (found.scalars().all(), kept.scalars().all()) == ([revision], [key.public_id])
    async with SqlAccounts.open(database_url) as store:
        account = await KeyRing(store).resolve(text)
    assert (account.tenant, account.key_id) == ("acme", key.public_id)


async def test_a_revision_that_is_not_there_is_refused(database_url: str) -> None:
    await migrate(database_url)
    with pytest.raises(UnknownSchema, match="cannot go back to '9999'"):
        await go_back(database_url, "9999")
    await migrate(database_url)
