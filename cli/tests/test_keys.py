"""The first keys are made where the gateway will look for them."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from penstock_cli.stack.keys import ensure_dev_keys
from penstock_cli.stack.table import Process


def keys_in(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        return {str(row[0]) for row in connection.execute("SELECT name FROM api_keys")}


@pytest.mark.parametrize("variable", ["", "GATEWAY_DATABASE_URL", "GATEWAY_KEY_DATABASE"])
def test_keys_go_into_the_database_that_the_shell_and_then_the_table_name(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, usual = tmp_path / "named.db", tmp_path / "usual.db"
    if variable:
        monkeypatch.setenv(variable, f"sqlite:///{named}" if variable.endswith("URL") else str(named))
    gateway = Process("gateway", (), {"GATEWAY_KEY_DATABASE": str(usual)}, {"rest": 1, "grpc": 2}, "")
    ensure_dev_keys(tmp_path / "dev.env", gateway)
    used, unused = (named, usual) if variable.endswith("URL") else (usual, named)
    assert keys_in(used) == {"dev", "dev-admin"}
    assert not unused.exists()
