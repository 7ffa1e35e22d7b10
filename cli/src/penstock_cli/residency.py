"""`penstock residency`: which models are in the memory of the servers that load them on request."""

import json
from typing import Annotated, Any, Final

import typer
from google.protobuf.json_format import MessageToDict
from penstock.inference.v1 import residency_pb2, residency_pb2_grpc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock_cli import settings as cli_settings
from penstock_cli.pool import PoolClient

STYLE: Final[dict[str, Any]] = {"box": None, "header_style": "bold"}
console = Console()


def residency(
    server: Annotated[str, typer.Argument(help="A server of the catalogue; all when none is named.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """List the models that are in servers' memory: what they take, and how many requests use them."""
    client = PoolClient(cli_settings.load())
    request = residency_pb2.ListDevicesRequest(server=server)
    found = client.call(residency_pb2_grpc.ResidencyServiceStub, "ListDevices", request)
    if as_json:
        print(json.dumps(MessageToDict(found, preserving_proto_field_name=True), indent=2, ensure_ascii=False))
    else:
        show_devices(console, list(found.devices))


def show_devices(console: Console, devices: list[residency_pb2.Device]) -> None:
    """Print a line for each server, and under it one for each model there."""
    table = Table("server", "address", "model", "stage", "memory", "in use", **STYLE)
    for each in devices:
        state = f"[red]restart it: {escape(each.ailment)}[/]" if each.ailment else "[green]well[/]"
        held = f"{_mib(each.charged_bytes)} of {_mib(each.budget_bytes)}"
        if each.unexplained_bytes:
            held += f", {_mib(each.unexplained_bytes)} unexplained"
        table.add_row(escape(each.server), escape(each.address), "", state if each.alive else "[red]down[/]", held, "")
        for model in each.residents:
            size = _mib(model.bytes) if model.measured else f"{_mib(model.bytes)} assumed"
            table.add_row("", "", escape(model.model), escape(model.stage), size, str(model.leases))
    console.print(table)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
