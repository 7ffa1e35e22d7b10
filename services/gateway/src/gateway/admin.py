"""Makes, lists, rotates and revokes API keys in the database itself, and takes its tables back; answers are JSON.

`python -m gateway.admin create --tenant demo`: for the first keys of an installation; the admin API needs one.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
from servicekit.errors import Conflict, NotFound, PenstockError

from gateway.adapters.sql import go_back, sqlite_url
from gateway.adapters.sql_accounts import SqlAccounts
from gateway.core.accounts import Account
from gateway.core.administration import Administration
from gateway.core.changes import LARGEST_PAGE, Page
from gateway.core.key_administration import KeyAdministration, KeyWish
from gateway.core.keys import ApiKey
from gateway.core.ports import AdminStore
from gateway.core.scopes import ADMIN, ALL_SCOPES, ROLES
from gateway.core.tenants import DEFAULT_PROJECT
from gateway.settings import Settings

OPERATOR: Final = Account("", "", "operator", "command line", frozenset({ADMIN}))
"""Who the journal says has done it: somebody who can read the database."""


async def create(store: AdminStore, asked: argparse.Namespace) -> dict[str, Any]:
    """Make a key, and tenant and project if need be; its text is in the answer and nowhere else, ever."""
    administration, keys = Administration(store), KeyAdministration(store)
    role = "admin" if asked.admin else asked.role
    try:
        await administration.get_project(OPERATOR, asked.tenant, asked.project)
    except NotFound:
        await _make_place(administration, asked.tenant, asked.project)
    expires_at = datetime.now(UTC) + timedelta(days=asked.expires_days) if asked.expires_days else None
    name = asked.name or ("admin" if asked.admin else "default")
    scopes = () if asked.admin else asked.scopes or ()
    wish = KeyWish(asked.tenant, asked.project, role, scopes)
    made = await keys.create(OPERATOR, wish, {"name": name, "expires_at": expires_at})
    return {"key": made.text, **_shown(made.key)}


async def rotate(store: AdminStore, asked: argparse.Namespace) -> dict[str, Any]:
    """Make a key with the same rights; the old one works for some time yet."""
    made = await KeyAdministration(store).rotate(OPERATOR, asked.public_id, asked.grace_s)
    return {"key": made.text, **_shown(made.key)}


async def revoke(store: AdminStore, asked: argparse.Namespace) -> dict[str, Any]:
    """Revoke a key; it stops working within 5 s."""
    await KeyAdministration(store).revoke(OPERATOR, asked.public_id)
    return {"public_id": asked.public_id, "revoked": True}


async def show(store: AdminStore, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the keys, without their secrets, oldest first."""
    keys, page = KeyAdministration(store), Page(LARGEST_PAGE)
    found: list[ApiKey] = []
    while True:
        part = await keys.list(OPERATOR, asked.tenant, None, page)
        found += part.items
        if not part.next_page_token:
            return [_shown(key) for key in sorted(found, key=lambda key: (key.created_at, key.public_id))]
        page = Page(LARGEST_PAGE, part.next_page_token)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="gateway.admin", description=__doc__)
    top.add_argument("--database", type=Path, help="a SQLite file; default: the gateway's own setting")
    commands = top.add_subparsers(required=True)
    make = commands.add_parser("create", help="make a key and print it, once")
    make.add_argument("--tenant", required=True, help="made if it does not exist")
    make.add_argument("--project", default=DEFAULT_PROJECT, help="made if it does not exist")
    make.add_argument("--name", default="", help="who uses it, for logs")
    make.add_argument("--role", default="member", choices=list(ROLES))
    make.add_argument("--scopes", nargs="+", metavar="SCOPE", help=f"of {', '.join(sorted(ALL_SCOPES))}")
    make.add_argument("--admin", action="store_true", help="all scopes, `admin` too")
    make.add_argument("--expires-days", type=float, default=0, help="0: never")
    make.set_defaults(action=create)
    again = commands.add_parser("rotate", help="make a key with the same rights and end the old one")
    again.add_argument("public_id")
    again.add_argument("--grace-s", type=float, default=0, help="seconds the old key still works")
    again.set_defaults(action=rotate)
    end = commands.add_parser("revoke", help="revoke a key")
    end.add_argument("public_id")
    end.set_defaults(action=revoke)
    back = commands.add_parser(
        "go-back", help="take the tables back for an older version; what newer ones added is lost"
    )
    back.add_argument("revision", help="the newest migration that the older version has, such as 0003")
    back.set_defaults(action=None)
    all_keys = commands.add_parser("list", help="show the keys without their secrets")
    all_keys.add_argument("--tenant")
    all_keys.set_defaults(action=show)
    return top


async def run(arguments: Sequence[str] | None = None) -> bytes:
    """Do what the command line says; return the answer as JSON. Raises servicekit's errors."""
    asked = parser().parse_args(arguments)
    database = _database(asked.database)
    if asked.action is None:  # to open the database would bring its tables up to date
        await go_back(database, asked.revision)
        return orjson.dumps({"revision": asked.revision})
    async with SqlAccounts.open(database) as store:
        return orjson.dumps(await asked.action(store, asked))


def main() -> None:
    """Run the command line; a failure is said in one line and exits with 1."""
    try:
        answer = asyncio.run(run())
    except PenstockError as error:
        sys.stderr.write(f"gateway.admin: {error.message}\n")
        sys.exit(1)
    sys.stdout.write(answer.decode() + "\n")


def _database(file: Path | None) -> str:
    return Settings().database if file is None else sqlite_url(file)


async def _make_place(administration: Administration, tenant: str, project: str) -> None:
    """Make a tenant, a project, or both; somebody else may do so at the same moment."""
    for make in (
        lambda: administration.create_tenant(OPERATOR, tenant, {}),
        lambda: administration.create_project(OPERATOR, tenant, project, {}),
    ):
        try:
            await make()
        except Conflict:
            continue


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "public_id": key.public_id,
        "tenant": key.tenant,
        "project": key.project,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "role": key.role,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


if __name__ == "__main__":
    main()
