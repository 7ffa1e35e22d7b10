"""`penstock keys` and `penstock tenants` against a running gateway."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_admin_fakes import Office, running_office


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with running_office() as started:
        yield started


class Shell:
    """Runs the command line as a person would."""

    def __init__(self, office: Office, state: Path, key: str) -> None:
        self._environment = {
            "PENSTOCK_URL": office.url,
            "PENSTOCK_ADMIN_KEY": key,
            "PENSTOCK_STATE": str(state),
            "COLUMNS": "200",
        }

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "penstock_cli.main", *words, env=self._environment, stdout=pipe, stderr=pipe
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def json(self, *words: str) -> Any:
        code, out, err = await self(*words)
        assert code == 0, err
        return json.loads(out)


async def test_tenants(office: Office, tmp_path: Path) -> None:
    shell = Shell(office, tmp_path, office.root)
    made = await shell.json("tenants", "create", "new", "--limit", "rpm=60", "--limit", "day=12.50", "--model", "a*")
    assert (made["limits"]["requests_per_minute"], made["limits"]["budget_day_usd"]) == (60, "12.50")
    await shell.json("tenants", "create", "new", "--project", "web")
    await shell.json("tenants", "update", "new", "--project", "web", "--limit", "concurrent=0")
    words = ["--limit", "rpm=unlimited", "--model", "all", "--region", "eu", "--highest-priority", "batch"]
    changed = await shell.json("tenants", "update", "new", *words)
    assert (changed["limits"]["requests_per_minute"], changed["models"]) == (None, None)
    assert (changed["region"], changed["highest_priority"]) == ("eu", "batch")
    assert (await shell.json("tenants", "update", "new", "--region", "any"))["region"] == ""
    shown = await shell.json("tenants", "show", "new")
    assert [each["id"] for each in shown["projects"]] == ["default", "web"]
    assert shown["projects"][1]["limits"]["concurrent_requests"] == 0
    assert [each["id"] for each in await shell.json("tenants", "list", "--json")] == ["acme", "new", "rival"]


async def test_keys(office: Office, tmp_path: Path) -> None:
    shell = Shell(office, tmp_path, office.boss)
    code, text, note = await shell(
        "keys", "create", "acme", "--role", "reader", "--limit", "tpm=5", "--expires-days", "1"
    )
    assert code == 0, note
    public_id = text.split("_")[1]
    assert text.strip() not in note
    shown = await shell.json("keys", "show", public_id)
    assert (shown["role"], shown["limits"]["tokens_per_minute"]) == ("reader", 5)
    changed = await shell.json("keys", "update", public_id, "--name", "app", "--priority", "batch")
    assert (changed["name"], changed["priority"], changed["version"]) == ("app", "batch", 2)
    rotated = await shell.json("keys", "rotate", public_id, "--grace-s", "60", "--json")
    assert rotated["replaces"] == public_id
    code, said, _ = await shell("keys", "revoke", public_id)
    assert (code, said.strip()) == (0, f"{public_id} is revoked")
    code, table, _ = await shell("keys", "list", "--tenant", "acme")
    assert code == 0
    assert public_id in table
    assert text.strip().split("_", 2)[2] not in table


async def test_what_is_wrong_is_said_in_a_line(office: Office, tmp_path: Path) -> None:
    shell = Shell(office, tmp_path, office.member)
    code, out, err = await shell("keys", "list")
    assert (code, out) == (1, "")
    assert "403" in err
    assert office.member not in err
    for words in (("keys", "create", "acme", "--limit", "rpm=x"), ("keys", "create", "acme", "--limit", "nope=1")):
        assert (await shell(*words))[0] == 2
