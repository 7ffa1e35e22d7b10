"""The key store on a real SQLite file; the same test holds the fake to it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gateway.adapters.sqlite import SqliteKeyStore, migrate
from gateway.core.ports import KeyStore
from gateway_fakes import FakeKeyStore, new_key
from servicekit.errors import Conflict, Unavailable


@pytest.fixture(params=["sqlite", "fake"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyStore]:
    if request.param == "fake":
        yield FakeKeyStore()
        return
    async with SqliteKeyStore.open(tmp_path / "new" / "gateway.db") as opened:
        yield opened


async def test_a_key_is_found_as_it_was_kept(store: KeyStore) -> None:
    key, _ = new_key(expires_at=datetime(2030, 1, 1, tzinfo=UTC))
    await store.add(key)
    assert await store.find(key.public_id) == key
    assert await store.find("nothing") is None
    with pytest.raises(Conflict):
        await store.add(key)


async def test_the_first_revocation_counts(store: KeyStore) -> None:
    key, _ = new_key()
    await store.add(key)
    first = datetime(2026, 1, 1, tzinfo=UTC)
    assert await store.revoke(key.public_id, first)
    assert await store.revoke(key.public_id, first + timedelta(days=1))
    found = await store.find(key.public_id)
    assert found is not None
    assert found.revoked_at == first
    assert not await store.revoke("nothing", first)


async def test_keys_are_listed_by_tenant(store: KeyStore) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for tenant, days in (("b", 2), ("a", 1), ("b", 0)):
        await store.add(new_key(tenant=tenant, created_at=start + timedelta(days=days))[0])
    assert [key.tenant for key in await store.all()] == ["b", "a", "b"]
    assert [key.created_at.day for key in await store.all("b")] == [1, 3]


async def test_a_public_id_is_a_value_and_never_sql(store: KeyStore) -> None:
    await store.add(new_key()[0])
    assert await store.find("' or '1'='1") is None


def files_of(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    key, text = new_key()
    async with SqliteKeyStore.open(path) as store:
        await store.add(key)
    content = b"".join(file.read_bytes() for file in files_of(tmp_path))
    assert key.public_id.encode() in content
    assert text.split("_", 2)[2].encode() not in content
    assert path.stat().st_mode & 0o077 == 0


async def test_two_processes_may_start_at_once(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    await asyncio.gather(*(asyncio.to_thread(migrate, path) for _ in range(3)))
    async with SqliteKeyStore.open(path) as one, SqliteKeyStore.open(path) as other:
        key, _ = new_key()
        await one.add(key)
        assert await other.find(key.public_id) == key


async def test_a_broken_file_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    async with SqliteKeyStore.open(path) as store:
        for file in files_of(tmp_path):
            file.write_bytes(b"not a database, not at all" * 400)
        with pytest.raises(Unavailable):
            await store.find("x")
