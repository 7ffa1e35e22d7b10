"""`penstock models`: what can be asked for, which versions there are, and who of them answers."""

import json
from datetime import UTC
from typing import Annotated, Any, Final

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from penstock.inference.v1 import versions_pb2 as pb
from penstock.inference.v1.versions_pb2_grpc import VersionServiceStub
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock_cli import settings as cli_settings
from penstock_cli import show
from penstock_cli.client import CallFailed, GatewayClient
from penstock_cli.pool import PoolClient

ROLES: Final = {
    pb.VERSION_ROLE_CHAMPION: "champion",
    pb.VERSION_ROLE_CANARY: "canary",
    pb.VERSION_ROLE_SHADOW: "shadow",
    pb.VERSION_ROLE_RETIRED: "retired",
}
VERDICTS: Final = {pb.VERDICT_PASSED: "passed", pb.VERDICT_FAILED: "failed"}
SPLITS: Final = {"key": pb.SPLIT_BY_KEY, "tenant": pb.SPLIT_BY_TENANT, "request": pb.SPLIT_BY_REQUEST}
CATALOGUE: Final = "the catalogue's own entry"

app = typer.Typer(help="Models, their versions, and who of them answers.")
console = Console()
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Model = Annotated[str, typer.Argument(help="A model of the catalogue.")]
Version = Annotated[str, typer.Argument(help="A version of it.")]
ServedBy = Annotated[str, typer.Option(help="The catalogue's entry that runs it.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: Json = False) -> None:
    """List the models and pipelines that can be asked for."""
    if context.invoked_subcommand is None:
        list_models(as_json)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models and pipelines that can be asked for."""
    with GatewayClient(cli_settings.load()) as gateway:
        listed = gateway.get("/v1/models")["data"]
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
    else:
        show.models(console, listed)


@app.command()
def versions(model: Model, as_json: Json = False) -> None:
    """List the versions of a model with their roles and variants."""
    found = _ask("ListVersions", pb.ListVersionsRequest(model=model))
    if as_json:
        _print_json(found)
    else:
        _show_versions(found)


@app.command()
def register(
    model: Model,
    served_by: Annotated[list[str], typer.Option(help="[VARIANT=]ENTRY of the catalogue, repeated for variants.")],
    version: Annotated[str, typer.Option(help="Its name; else the first digits of its digest.")] = "",
    cost_nanos: Annotated[
        list[int] | None, typer.Option(help="Nano-dollars per request, one for each variant.")
    ] = None,
    source: Annotated[str, typer.Option(help="Where it comes from, for people.")] = "",
    as_json: Json = False,
) -> None:
    """Register what entries of the catalogue run now as a version; it never changes afterwards."""
    costs = cost_nanos or [0] * len(served_by)
    if len(costs) != len(served_by):
        raise typer.BadParameter("--cost-nanos is given once for each --served-by, or not at all")
    variants = [_variant(text, cost) for text, cost in zip(served_by, costs, strict=True)]
    request = pb.RegisterVersionRequest(model=model, version=version, variants=variants, source=source)
    _show_version(_ask("RegisterVersion", request), as_json)


@app.command(name="import")
def import_version(
    model: Model,
    uri: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/VERSION of MLflow.")],
    served_by: ServedBy,
    as_json: Json = False,
) -> None:
    """Register a version that MLflow knows."""
    request = pb.ImportVersionRequest(model=model, uri=uri, variant=pb.NewVariant(served_by=served_by))
    _show_version(_ask("ImportVersion", request), as_json)


@app.command()
def evaluate(
    model: Model,
    version: Version,
    passed: Annotated[bool, typer.Option("--passed/--failed", help="What the evaluation said.")],
    variant: Annotated[str, typer.Option(help="Of several variants, which.")] = "",
    report: Annotated[str, typer.Option(help="Where its figures are.")] = "",
    as_json: Json = False,
) -> None:
    """Record what an evaluation said; only what passed answers callers."""
    verdict = pb.VERDICT_PASSED if passed else pb.VERDICT_FAILED
    request = pb.RecordEvaluationRequest(model=model, version=version, variant=variant, verdict=verdict, report=report)
    _show_version(_ask("RecordEvaluation", request), as_json)


@app.command()
def promote(model: Model, version: Version) -> None:
    """Let a version answer everybody; it is so everywhere within 5 s."""
    found = _roles(model)
    _free(found.roles, version)
    found.roles.champion = version
    _assign(model, found)


@app.command()
def rollback(model: Model) -> None:
    """End the canaries of a model; where there is none, make the former champion champion again."""
    found = _roles(model)
    if found.roles.canaries:
        del found.roles.canaries[:]
    elif found.HasField("former_champion"):
        _free(found.roles, found.former_champion)
        found.roles.champion = found.former_champion
    else:
        raise CallFailed(f"{model} has neither a canary nor a former champion")
    _assign(model, found)


@app.command()
def canary(
    model: Model,
    version: Version,
    weight: Annotated[float, typer.Option(help="Percent of the traffic; 0 ends it.")],
    split_by: Annotated[str, typer.Option(help="What stays with one version: key, tenant or request.")] = "",
) -> None:
    """Let a version answer a share of the callers."""
    found = _roles(model)
    _free(found.roles, version)
    if weight:
        found.roles.canaries.add(version=version, weight_percent=weight)
    if split_by:
        if split_by not in SPLITS:
            raise typer.BadParameter(f"--split-by is one of {', '.join(SPLITS)}")
        found.roles.split_by = SPLITS[split_by]
    _assign(model, found)


@app.command()
def shadow(
    model: Model,
    version: Version,
    percent: Annotated[float, typer.Option(help="How much of the champion's traffic is mirrored; 0 ends it.")] = 100.0,
) -> None:
    """Ask a version the same beside the callers, and compare its answers."""
    found = _roles(model)
    _free(found.roles, version)
    found.roles.shadow = version if percent else ""
    found.roles.shadow_percent = percent
    _assign(model, found)


@app.command()
def retire(model: Model, version: Version) -> None:
    """Take a version, which is not the champion, out of use."""
    found = _roles(model)
    if found.roles.champion == version:
        raise CallFailed(f"{version} is the champion of {model}; promote another one first")
    _free(found.roles, version)
    found.roles.retired.append(version)
    _assign(model, found)


@app.command()
def report(model: Model, version: Version, as_json: Json = False) -> None:
    """Show how the answers of a shadow differed."""
    found = _ask("GetShadowReport", pb.GetShadowReportRequest(model=model, version=version))
    if as_json:
        _print_json(found)
        return
    largest = f", largest difference {found.max_abs_diff:.3g}" if found.HasField("max_abs_diff") else ""
    console.print(
        f"{found.requests} mirrored, {found.same} the same, {found.failed} failed{largest}; mean"
        f" {found.champion_mean_ms:.1f} ms, shadow {found.shadow_mean_ms:.1f} ms",
        highlight=False,
    )
    for detail in found.details:
        console.print(f"  {escape(detail)}", highlight=False)


@app.command()
def changes(
    model: Annotated[str, typer.Argument(help="All when none is named.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=1000)] = 20,
    as_json: Json = False,
) -> None:
    """Show who changed what, newest first."""
    found = _ask("ListVersionChanges", pb.ListVersionChangesRequest(model=model, page_size=lines))
    if as_json:
        _print_json(found)
        return
    table = Table("when", "model", "who", "what", "became", box=None, header_style="bold")
    for each in found.changes:
        when = each.at.ToDatetime(UTC).isoformat(" ", "seconds")
        table.add_row(when, escape(each.model), escape(each.by), each.action, escape(each.after_json))
    console.print(table)


def _roles(model: str) -> pb.GetRolesResponse:
    found: pb.GetRolesResponse = _ask("GetRoles", pb.GetRolesRequest(model=model))
    return found


def _assign(model: str, found: pb.GetRolesResponse) -> None:
    """Put roles in force that were read and changed; whoever changed them in between is not overwritten."""
    request = pb.SetRolesRequest(model=model, revision=found.revision, roles=found.roles)
    changed = _ask("SetRoles", request)
    console.print(escape(f"{model}: {_line(changed.roles)} (revision {changed.revision})"), highlight=False)


def _free(roles: pb.Roles, version: str) -> None:
    """Take the roles from a version that another one excludes."""
    others = [each for each in roles.canaries if each.version != version]
    del roles.canaries[:]
    roles.canaries.extend(others)
    retired = [each for each in roles.retired if each != version]
    del roles.retired[:]
    roles.retired.extend(retired)
    if roles.shadow == version:
        roles.shadow, roles.shadow_percent = "", 0.0


def _variant(text: str, cost_nanos: int) -> pb.NewVariant:
    name, _, entry = text.rpartition("=")
    return pb.NewVariant(name=name, served_by=entry, cost_nanos=cost_nanos)


def _line(roles: pb.Roles) -> str:
    parts = [f"champion {roles.champion or CATALOGUE}"]
    parts += [f"canary {each.version} {each.weight_percent:g} %" for each in roles.canaries]
    if roles.shadow:
        parts.append(f"shadow {roles.shadow} {roles.shadow_percent:g} %")
    return ", ".join(parts)


def _show_versions(found: pb.ListVersionsResponse) -> None:
    columns = ("version", "role", "variant", "served by", "evaluation", "servable", "digest")
    table = Table(*columns, box=None, header_style="bold")
    for version in found.versions:
        for number, variant in enumerate(version.variants):
            table.add_row(
                "" if number else version.name,
                "" if number else ROLES.get(version.role, ""),
                variant.name,
                escape(variant.served_by),
                VERDICTS.get(variant.verdict, "pending"),
                "[green]yes[/]" if variant.servable else "[red]no[/]",
                variant.digest[:19],
            )
    console.print(table)
    console.print(escape(f"{_line(found.roles)} (revision {found.revision})"), highlight=False)


def _show_version(found: Any, as_json: bool) -> None:
    if as_json:
        _print_json(found)
    else:
        version = found.version
        console.print(f"{escape(version.model)} {version.name} {version.digest}", highlight=False, soft_wrap=True)


def _ask(method: str, request: Message) -> Any:
    return PoolClient(cli_settings.load()).call(VersionServiceStub, method, request)


def _print_json(found: Message) -> None:
    shown = MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    print(json.dumps(shown, indent=2, ensure_ascii=False))
