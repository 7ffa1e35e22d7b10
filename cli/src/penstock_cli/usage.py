"""`penstock usage`: what was used and what it cost."""

import json
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock_cli import settings as cli_settings
from penstock_cli.client import GatewayClient

PAGE_SIZE = 1000
GROUPS = ("tenant", "project", "key", "model", "day", "hour")
COUNTS = ("calls", "attempts", "failed", "cancelled", "abandoned", "input_tokens", "output_tokens")
ATTEMPT = ("started_at", "tenant", "project", "key", "model", "status", "reason", "input_tokens", "output_tokens")
console = Console()


def usage(
    by: Annotated[str, typer.Option(help=f"Sums by these, separated by commas: {', '.join(GROUPS)}.")] = "model",
    period: Annotated[str, typer.Option(help="FROM or FROM..UNTIL, such as 2026-11-01; else this month.")] = "",
    only: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of tenant, project, key or model.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every tenant's, with the admin key.")] = False,
    attempts: Annotated[bool, typer.Option("--attempts", help="The latest 1,000 attempts in place of sums.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Show what was used and what it cost."""
    settings = cli_settings.load()
    if everyone:
        settings = settings.model_copy(update={"api_key": settings.admin_key})
    since, _, until = period.partition("..")
    asked = {"since": since, "until": until, **_filters(only or [])}
    path = "/v1/admin/usage" if everyone else "/v1/usage"
    with GatewayClient(settings) as gateway:
        if attempts:
            found = gateway.get(_address(f"{path}/attempts", asked))["data"]
        else:
            found = list(_pages(gateway, path, {"by": by, **asked}))
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif attempts:
        show_attempts(console, found)
    else:
        show_sums(console, found)


def show_sums(console: Console, sums: list[dict[str, Any]]) -> None:
    """Print sums in a table."""
    groups = [name for name in GROUPS if sums and name in sums[0]]
    table = Table(*groups, *COUNTS, "USD", box=None, header_style="bold")
    for entry in sums:
        names = [escape(str(entry[name])) for name in groups]
        table.add_row(*names, *(f"{entry[name]:,}" for name in COUNTS), entry["cost_usd"])
    console.print(table)


def show_attempts(console: Console, attempts: list[dict[str, Any]]) -> None:
    """Print attempts in a table, the latest first."""
    table = Table(*ATTEMPT, "USD", box=None, header_style="bold")
    for entry in attempts:
        table.add_row(*(escape(str(entry[name] or "")) for name in ATTEMPT), entry["cost_usd"])
    console.print(table)


def _pages(gateway: GatewayClient, path: str, asked: dict[str, str]) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        page = gateway.get(_address(path, {**asked, "page_token": token}))
        yield from page["data"]
        token = page["next_page_token"] or ""
        if not token:
            return


def _address(path: str, asked: dict[str, str]) -> str:
    given = {name: value for name, value in asked.items() if value}
    return f"{path}?{urlencode({**given, 'page_size': str(PAGE_SIZE)})}"


def _filters(pairs: list[str]) -> dict[str, str]:
    filters = dict(pair.partition("=")[::2] for pair in pairs)
    if unknown := filters.keys() - {"tenant", "project", "key", "model"}:
        raise typer.BadParameter(f"{min(unknown)!r} is none of tenant, project, key and model", param_hint="--only")
    return filters
