"""Versions, roles and comparisons in SQLite and PostgreSQL, and that the fake of the store behaves as they do."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy
from inference.adapters import version_sql, version_tables
from inference.adapters.sql import sqlite_url
from inference.adapters.version_sql import SqlVersions
from inference.core.registry import Judged, Registry
from inference.core.served_model import ServedModel
from inference.core.shadow import Comparison, Difference
from inference.core.traffic import SplitBy
from inference.core.version_ports import Outdated, ShadowReport, VersionStore
from inference.core.versions import Canary, RolesChanged, RolesWish, Variant, Verdict, Version
from inference_fakes import FakeGenerator, generating
from inference_version_fakes import NOW, FakeVersionStore, assigned, digest, registered, running
from pydantic_settings import BaseSettings, SettingsConfigDict
from servicekit.errors import Unavailable
from sqlalchemy.ext.asyncio import create_async_engine


class Databases(BaseSettings):
    """Real databases that tests may use: PENSTOCK_TEST_POSTGRES is postgresql://USER@HOST:PORT/NAME."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_TEST_")
    postgres: str = ""


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database of each kind; PostgreSQL where there is a server."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "new" / "versions.db")
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


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[VersionStore]:
    if url == "fake":
        yield FakeVersionStore()
        return
    async with SqlVersions.open(url) as store:
        yield store


def entries() -> dict[str, ServedModel]:
    served = [running(generating(FakeGenerator(), name), number) for number, name in enumerate(("chat", "a", "b"))]
    return {each.model.name: each for each in served}


def comparison(number: int, shadow: str = "2", failure: str = "", diff: float | None = None) -> Comparison:
    difference = Difference(not diff and not failure, diff, f"detail {number}" if diff is None and not failure else "")
    return Comparison("chat", "1", shadow, NOW, difference, 10.0, 99.0 if failure else 20.0, failure)


@pytest.fixture(params=["fake", "real"])
def url(request: pytest.FixtureRequest, database_url: str) -> str:
    return database_url if request.param == "real" else "fake"


async def test_what_is_written_is_read_back_by_another(url: str) -> None:
    async with opened(url) as store:
        first, second = Registry(store, entries(), lambda: NOW), Registry(store, entries())
        await registered(first, "chat", "1", "a", "b")
        await registered(first, "chat", "2", "b")
        await registered(first, "chat", "3", "b", passed=False)
        wish = RolesWish("1", [Canary("2", 12.34)], "3", 50, [], SplitBy.TENANT)
        await first.assign("chat", 0, wish, "root")
        await second.refresh()
        assert second.known("chat") == first.known("chat")
        assert second.traffic.routes == first.traffic.routes
        assert second.known("chat").roles.canaries == {"2": 1_234}
        assert second.version("chat", "1").registered_at == NOW
        await assigned(second, "chat", champion="2", retired=["3"])
        await first.refresh()
        assert (first.known("chat").roles.former, first.known("chat").roles.retired) == ("1", frozenset("3"))


async def test_a_write_on_an_old_reading_is_not_done_at_all(url: str) -> None:
    async with opened(url) as store:
        version = Version("chat", "1", digest(1), (Variant("default", "a", digest(1)),), "", NOW, "root")
        old = await store.generation()
        await store.commit(old, version)
        other = Version("chat", "2", digest(2), (Variant("default", "b", digest(2)),), "", NOW, "root")
        with pytest.raises(Outdated):
            await store.commit(old, other)
        assert sorted((await store.load())["chat"].versions) == ["1"]
        assert len(await store.changes("", 0, 10)) == 1
        assert await store.generation() == old + 1


async def test_of_many_processes_that_change_the_same_roles_one_does(url: str) -> None:
    async with opened(url) as store:
        served = entries()
        await registered(Registry(store, served), "chat", "1", "a")
        many = [Registry(store, served) for _ in range(8)]
        done = await asyncio.gather(
            *(each.assign("chat", 0, RolesWish("1"), f"process-{number}") for number, each in enumerate(many)),
            return_exceptions=True,
        )
        assert sorted(type(each).__name__ for each in done) == ["Roles", *["RolesChanged"] * 7]
        assert sum(each.action == "assign" for each in await store.changes("chat", 0, 100)) == 1


async def test_the_journal_tells_who_did_what_newest_first(url: str) -> None:
    async with opened(url) as store:
        versions = Registry(store, entries(), lambda: NOW)
        await registered(versions, "chat", "1", "a")
        await registered(versions, "a", "1", "b")
        await versions.assign("chat", 0, RolesWish("1"), "root")
        everything = await store.changes("", 0, 10)
        assert [(each.model, each.action) for each in everything] == [
            ("chat", "assign"),
            ("a", "evaluate"),
            ("a", "register"),
            ("chat", "evaluate"),
            ("chat", "register"),
        ]
        assert (everything[0].by, everything[0].at) == ("root", NOW)
        older = await store.changes("chat", everything[0].id, 1)
        assert [each.action for each in older] == ["evaluate"]


async def test_the_journal_has_the_roles_before_and_after(database_url: str) -> None:
    async with SqlVersions.open(database_url) as store:
        versions = Registry(store, entries(), lambda: NOW)
        await registered(versions, "chat", "1", "a")
        await assigned(versions, "chat", canaries=[Canary("1", 10)])
        (change,) = await store.changes("chat", 0, 1)
        assert '"canaries":{}' in change.before
        assert '"canaries":{"1":1000}' in change.after
        await versions.judge("chat", "1", Judged("v0", Verdict.FAILED, "see there"), "root")
        (change,) = await store.changes("chat", 0, 1)
        assert (change.action, '"passed"' in change.before, '"see there"' in change.after) == ("evaluate", True, True)


async def test_a_report_counts_what_was_compared(url: str) -> None:
    async with opened(url) as store:
        assert isinstance(store, SqlVersions | FakeVersionStore)
        assert (await store.report("chat", "2")).requests == 0
        compared = [comparison(1, diff=0.0), comparison(2, diff=0.5), comparison(3, failure="backend_failed")]
        await store.keep([*compared, comparison(4, shadow="3")])
        told = await store.report("chat", "2")
        assert (told.requests, told.same, told.failed, told.max_abs_diff) == (3, 1, 1, 0.5)


async def test_a_report_tells_means_of_what_was_answered_and_the_latest_details(database_url: str) -> None:
    async with SqlVersions.open(database_url) as store:
        await store.keep([*(comparison(number) for number in range(12)), comparison(12, failure="timed_out")])
        told = await store.report("chat", "2")
        assert told == ShadowReport(13, 12, 1, None, 10.0, 20.0, [f"detail {number}" for number in range(11, 1, -1)])


async def test_a_bounded_number_of_comparisons_is_kept_for_each_model(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_sql, "KEPT_COMPARISONS", 5)
    async with SqlVersions.open(database_url) as store:
        for number in range(4):
            await store.keep([comparison(number, shadow="2"), comparison(number, shadow="3")])
        kept = [(await store.report("chat", shadow)).requests for shadow in ("2", "3")]
        assert sum(kept) == 5


async def test_the_migrations_make_the_tables_the_code_uses(database_url: str) -> None:
    async with SqlVersions.open(database_url):
        pass
    driver = "sqlite+aiosqlite" if database_url.startswith("sqlite") else "postgresql+asyncpg"
    engine = create_async_engine(sqlalchemy.make_url(database_url).set(drivername=driver))
    async with engine.connect() as connection:
        found = await connection.run_sync(
            lambda sync: {
                table: {each["name"] for each in sqlalchemy.inspect(sync).get_columns(table)}
                for table in sqlalchemy.inspect(sync).get_table_names()
            }
        )
    await engine.dispose()
    expected = {
        name: {column.name for column in table.columns} for name, table in version_tables.metadata.tables.items()
    }
    assert found == expected | {version_tables.JOURNAL: {"version_num"}}


async def test_a_file_is_for_its_owner_alone_and_opening_it_twice_is_fine(tmp_path: Path) -> None:
    file = tmp_path / "versions.db"
    async with SqlVersions.open(sqlite_url(file)) as one, SqlVersions.open(sqlite_url(file)) as other:
        assert await one.generation() == await other.generation() == 0
    assert file.stat().st_mode & 0o077 == 0


async def test_a_server_that_is_not_there_is_unavailable_and_a_wrong_url_is_told() -> None:
    with pytest.raises(Unavailable) as caught:
        async with SqlVersions.open("postgresql://nobody:sesame@127.0.0.1:1/none"):
            pass
    assert (caught.value.reason, "sesame" in str(caught.value)) == ("version_store_failed", False)
    with pytest.raises(ValueError, match="sqlite:///PATH"):
        async with SqlVersions.open("mysql://host/name"):
            pass


async def test_one_whose_roles_were_changed_elsewhere_has_to_read_again(url: str) -> None:
    async with opened(url) as store:
        served = entries()
        ours, theirs = Registry(store, served), Registry(store, served)
        await registered(ours, "chat", "1", "a")
        await theirs.assign("chat", 0, RolesWish("1"), "them")
        with pytest.raises(RolesChanged):
            await ours.assign("chat", 0, RolesWish(), "us")
        assert (await ours.assign("chat", 1, RolesWish(), "us")).former == "1"
