"""Makes, lists and revokes API keys; answers are JSON: `python -m gateway.admin create --tenant demo`."""

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
from servicekit.errors import InvalidInput, NotFound, PenstockError

from gateway.adapters.sqlite import SqliteKeyStore
from gateway.core.keys import ApiKey, hash_secret, new_key_text
from gateway.core.ports import KeyStore
from gateway.core.scopes import ALL_SCOPES, TENANT_SCOPES
from gateway.settings import Settings

TENANT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


async def create(store: KeyStore, asked: argparse.Namespace) -> dict[str, Any]:
    """Make a key; its text is in the answer and nowhere else, ever."""
    if not TENANT.fullmatch(asked.tenant):
        raise InvalidInput("a tenant is 1 to 64 of a-z, 0-9, _ and -", field="tenant")
    scopes = frozenset(asked.scopes or TENANT_SCOPES)
    if unknown := scopes - ALL_SCOPES:
        raise InvalidInput(f"unknown scopes: {', '.join(sorted(unknown))}", field="scopes")
    public_id, secret, text = new_key_text()
    now = datetime.now(UTC)
    key = ApiKey(
        public_id=public_id,
        secret_hash=hash_secret(secret),
        tenant=asked.tenant,
        name=asked.name or ("admin" if asked.admin else "default"),
        scopes=ALL_SCOPES if asked.admin else scopes,
        role="admin" if asked.admin else "member",
        created_at=now,
        expires_at=now + timedelta(days=asked.expires_days) if asked.expires_days else None,
    )
    await store.add(key)
    return {"key": text, **_shown(key)}


async def revoke(store: KeyStore, asked: argparse.Namespace) -> dict[str, Any]:
    """Revoke a key; it stops working within 5 s."""
    if not await store.revoke(asked.public_id, datetime.now(UTC)):
        raise NotFound(f"there is no key {asked.public_id}")
    return {"public_id": asked.public_id, "revoked": True}


async def show(store: KeyStore, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the keys, without their secrets."""
    return [_shown(key) for key in await store.all(asked.tenant)]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="gateway.admin", description=__doc__)
    top.add_argument("--database", type=Path, help="the key database; default: the gateway's own setting")
    commands = top.add_subparsers(required=True)
    make = commands.add_parser("create", help="make a key and print it, once")
    make.add_argument("--tenant", required=True)
    make.add_argument("--name", default="", help="who uses it, for logs")
    make.add_argument("--scopes", nargs="+", metavar="SCOPE", help=f"of {', '.join(sorted(ALL_SCOPES))}")
    make.add_argument("--admin", action="store_true", help="all scopes, `admin` too")
    make.add_argument("--expires-days", type=float, default=0, help="0: never")
    make.set_defaults(action=create)
    end = commands.add_parser("revoke", help="revoke a key")
    end.add_argument("public_id")
    end.set_defaults(action=revoke)
    all_keys = commands.add_parser("list", help="show the keys without their secrets")
    all_keys.add_argument("--tenant")
    all_keys.set_defaults(action=show)
    return top


async def run(arguments: Sequence[str] | None = None) -> bytes:
    """Do what the command line says; return the answer as JSON. Raises servicekit's errors."""
    asked = parser().parse_args(arguments)
    async with SqliteKeyStore.open(asked.database or Settings().key_database) as store:
        return orjson.dumps(await asked.action(store, asked))


def main() -> None:
    """Run the command line; a failure is said in one line and exits with 1."""
    try:
        answer = asyncio.run(run())
    except PenstockError as error:
        sys.stderr.write(f"gateway.admin: {error.message}\n")
        sys.exit(1)
    sys.stdout.write(answer.decode() + "\n")


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "public_id": key.public_id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "role": key.role,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


if __name__ == "__main__":
    main()
