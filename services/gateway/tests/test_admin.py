"""Keys by the command line, and a gateway process that takes them."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from gateway import admin
from gateway.adapters.sql import sqlite_url
from gateway.adapters.sql_accounts import SqlAccounts
from gateway.core.key_ring import InvalidApiKey, KeyRing
from gateway.core.scopes import ALL_SCOPES, ROLES, TENANT_SCOPES
from servicekit.errors import Conflict, InvalidInput, NotFound


async def command(path: Path, *words: str):
    return json.loads(await admin.run(["--database", str(path), *words]))


async def test_a_key_from_creation_to_revocation(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    made = await command(path, "create", "--tenant", "demo", "--scopes", "ask", "models")
    async with SqlAccounts.open(sqlite_url(path)) as store:
        key = await KeyRing(store).resolve(made["key"])
        assert (key.tenant, key.project, key.scopes) == ("demo", "default", {"ask", "models"})
        listed = await command(path, "list", "--tenant", "demo")
        assert [each["public_id"] for each in listed] == [key.key_id]
        assert made["key"].split("_", 2)[2] not in json.dumps(listed)
        await command(path, "revoke", key.key_id)
        with pytest.raises(InvalidApiKey):
            await KeyRing(store).resolve(made["key"])


async def test_defaults_and_admin(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    member = await command(path, "create", "--tenant", "demo", "--expires-days", "1")
    boss = await command(path, "create", "--tenant", "demo", "--admin", "--name", "boss")
    assert set(member["scopes"]) == TENANT_SCOPES
    assert member["expires_at"]
    assert (set(boss["scopes"]), boss["role"], boss["name"]) == (ALL_SCOPES, "admin", "boss")


async def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with pytest.raises(InvalidInput, match="tenant"):
        await command(path, "create", "--tenant", "Not Good")
    with pytest.raises(InvalidInput, match="fly"):
        await command(path, "create", "--tenant", "demo", "--scopes", "fly")
    with pytest.raises(NotFound):
        await command(path, "revoke", "nothing")


async def test_a_key_is_rotated_and_the_old_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    made = await command(path, "create", "--tenant", "demo", "--project", "web", "--role", "reader")
    again = await command(path, "rotate", made["public_id"], "--grace-s", "0")
    async with SqlAccounts.open(sqlite_url(path)) as store:
        account = await KeyRing(store).resolve(again["key"])
        assert (account.project, account.scopes) == ("web", ROLES["reader"])
        with pytest.raises(InvalidApiKey):
            await KeyRing(store).resolve(made["key"])
    with pytest.raises(Conflict):
        await command(path, "rotate", made["public_id"])


async def test_the_tables_go_back_and_keys_stay(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    made = await command(path, "create", "--tenant", "demo")
    assert await command(path, "go-back", "0002") == {"revision": "0002"}
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("0002",)]
        assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'ledger'").fetchone() == (0,)
    assert [each["public_id"] for each in await command(path, "list")] == [made["public_id"]]
    with pytest.raises(Conflict, match="cannot go back to '9999'"):
        await command(path, "go-back", "9999")
