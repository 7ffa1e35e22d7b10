"""`penstock keys` and `penstock tenants`: who may call, with what limits; needs the admin key, or a tenant-admin's."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock_cli import settings as cli_settings
from penstock_cli.client import GatewayClient

PAGE_SIZE = 1000
UNLIMITED = "unlimited"
LIMITS = {
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "concurrent": "concurrent_requests",
    "day": "budget_day_usd",
    "month": "budget_month_usd",
}
keys_app = typer.Typer(no_args_is_help=True, help="API keys: create, list, show, update, rotate, revoke.")
tenants_app = typer.Typer(no_args_is_help=True, help="Tenants and their projects: create, list, show, update.")
console = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Project = Annotated[str, typer.Option(help="A project of the tenant.")]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", help=f"NAME=VALUE, repeated; {', '.join(LIMITS)}; day and month are dollars; or unlimited."
    ),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model it may use, * and ? stand for others; `all` for all.")
]


@keys_app.command("create")
def create_key(  # noqa: PLR0913  the options of a command
    tenant: str,
    project: Project = "default",
    name: Annotated[str, typer.Option(help="Who uses it.")] = "default",
    role: Annotated[str, typer.Option(help="reader, member, tenant-admin or admin.")] = "member",
    priority: Annotated[str, typer.Option(help="interactive, standard or batch.")] = "standard",
    expires_days: Annotated[float, typer.Option(min=0, help="0: never.")] = 0,
    limit: Limit = None,
    model: Models = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, once."""
    body = {"tenant": tenant, "project": project, "name": name, "role": role, "priority": priority}
    body |= _given(limit, model)
    if expires_days:
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=expires_days)).isoformat()
    with _gateway() as gateway:
        _show_new(gateway.post("/v1/admin/keys", body), as_json)


@keys_app.command("list")
def list_keys(tenant: Annotated[str, typer.Option(help="All when none is named.")] = "", as_json: Json = False) -> None:
    """Show keys without their secrets."""
    with _gateway() as gateway:
        found = sorted(_all(gateway, "/v1/admin/keys", "keys", tenant=tenant), key=lambda key: str(key["created_at"]))
    columns = ("public_id", "tenant", "project", "name", "role", "priority", "expires_at", "revoke_at")
    _show(found, columns, as_json)


@keys_app.command("show")
def show_key(public_id: str) -> None:
    """Show all of a key but its secret."""
    with _gateway() as gateway:
        _print_json(gateway.get(f"/v1/admin/keys/{quote(public_id, safe='')}"))


@keys_app.command("update")
def update_key(
    public_id: str,
    name: str = "",
    priority: Annotated[str, typer.Option(help="interactive, standard or batch.")] = "",
    limit: Limit = None,
    model: Models = None,
) -> None:
    """Change a key; it is so everywhere within 5 s."""
    said = {field: value for field, value in (("name", name), ("priority", priority)) if value}
    with _gateway() as gateway:
        _update(gateway, f"/v1/admin/keys/{quote(public_id, safe='')}", said | _given(limit, model))


@keys_app.command("rotate")
def rotate_key(
    public_id: str,
    grace_s: Annotated[int, typer.Option(min=0, help="Seconds that the old key still works.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a key with the same rights and print it, once; the old one ends after its grace."""
    with _gateway() as gateway:
        made = gateway.post(f"/v1/admin/keys/{quote(public_id, safe='')}/rotate", {"grace_s": grace_s})
    _show_new(made, as_json)


@keys_app.command("revoke")
def revoke_key(public_id: str) -> None:
    """End a key; it stops working everywhere within 5 s."""
    with _gateway() as gateway:
        ended = gateway.post(f"/v1/admin/keys/{quote(public_id, safe='')}/revoke", {})
    console.print(f"{ended['public_id']} is revoked", highlight=False)


@tenants_app.command("create")
def create_tenant(
    tenant: str,
    project: Annotated[str, typer.Option(help="Make this project of a tenant that is there.")] = "",
    region: Annotated[str, typer.Option(help="The only region its requests may reach.")] = "",
    highest_priority: Annotated[str, typer.Option(help="interactive, standard or batch.")] = "",
    limit: Limit = None,
    model: Models = None,
) -> None:
    """Make a tenant, or with --project a project of one."""
    body = _given(limit, model) | _about(region, highest_priority)
    with _gateway() as gateway:
        if project:
            _print_json(gateway.post(f"{_path(tenant)}/projects", {"id": project, **body}))
        else:
            _print_json(gateway.post("/v1/admin/tenants", {"id": tenant, **body}))


@tenants_app.command("list")
def list_tenants(as_json: Json = False) -> None:
    """Show tenants."""
    with _gateway() as gateway:
        found = list(_all(gateway, "/v1/admin/tenants", "tenants"))
    _show(found, ("id", "region", "highest_priority", "source", "created_at"), as_json)


@tenants_app.command("show")
def show_tenant(tenant: str) -> None:
    """Show all of a tenant and its projects."""
    with _gateway() as gateway:
        found = gateway.get(_path(tenant))
        found["projects"] = list(_all(gateway, f"{_path(tenant)}/projects", "projects"))
    _print_json(found)


@tenants_app.command("update")
def update_tenant(
    tenant: str,
    project: Annotated[str, typer.Option(help="Change this project, not the tenant.")] = "",
    region: Annotated[str, typer.Option(help="The only region its requests may reach; `any` for no pin.")] = "",
    highest_priority: Annotated[str, typer.Option(help="interactive, standard or batch.")] = "",
    limit: Limit = None,
    model: Models = None,
) -> None:
    """Change a tenant, or with --project a project; it is so everywhere within 5 s."""
    path = f"{_path(tenant)}/projects/{quote(project, safe='')}" if project else _path(tenant)
    with _gateway() as gateway:
        _update(gateway, path, _given(limit, model) | _about(region, highest_priority))


def _gateway() -> GatewayClient:
    settings = cli_settings.load()
    return GatewayClient(settings.model_copy(update={"api_key": settings.admin_key}))


def _path(tenant: str) -> str:
    return f"/v1/admin/tenants/{quote(tenant, safe='')}"


def _update(gateway: GatewayClient, path: str, changes: dict[str, Any]) -> None:
    """Change what is there now; who changed it in between is not overwritten."""
    version = gateway.get(path)["version"]
    _print_json(gateway.patch(path, {"version": version, **changes}))


def _all(gateway: GatewayClient, path: str, name: str, **filters: str) -> Iterator[dict[str, Any]]:
    asked: dict[str, Any] = {key: value for key, value in filters.items() if value} | {"page_size": PAGE_SIZE}
    while True:
        page = gateway.get(f"{path}?{urlencode(asked)}")
        yield from page[name]
        if not page["next_page_token"]:
            return
        asked["page_token"] = page["next_page_token"]


def _given(limits: list[str] | None, models: list[str] | None) -> dict[str, Any]:
    """Return the limits and models of a command line as the API takes them."""
    body: dict[str, Any] = {}
    if limits:
        body["limits"] = dict(_limit(each) for each in limits)
    if models:
        body["models"] = None if models == ["all"] else models
    return body


def _limit(text: str) -> tuple[str, str | int | None]:
    name, _, value = text.partition("=")
    if name not in LIMITS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(LIMITS)}")
    if value == UNLIMITED:
        return LIMITS[name], None
    read: Callable[[str], str | int] = str if LIMITS[name].endswith("_usd") else int
    try:
        return LIMITS[name], read(value)
    except ValueError as error:
        raise typer.BadParameter(f"{name} has to be a whole number, or {UNLIMITED}") from error


def _about(region: str, highest_priority: str) -> dict[str, Any]:
    said: dict[str, Any] = {"highest_priority": highest_priority} if highest_priority else {}
    return said | {"region": "" if region == "any" else region} if region else said


def _show_new(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(made)
    else:
        print(made["key"])
        Console(stderr=True).print(
            f"key {made['public_id']} of {made['tenant']}; it is not shown again", highlight=False
        )


def _show(found: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        _print_json(found)
        return
    table = Table(*(column.replace("_", " ") for column in columns), box=None, header_style="bold")
    for each in found:
        table.add_row(*(escape(str(each[column] or "")) for column in columns))
    console.print(table)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
