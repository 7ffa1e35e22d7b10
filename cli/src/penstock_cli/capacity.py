"""`penstock capacity` and `penstock replicas`: what the pool is asked, what runs it, and how many replicas would do."""

import json
from typing import Annotated, Any, Final

import typer
from google.protobuf.json_format import MessageToDict
from penstock.inference.v1 import capacity_pb2, capacity_pb2_grpc, replicas_pb2, replicas_pb2_grpc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock_cli import settings as cli_settings
from penstock_cli.pool import PoolClient

KINDS: Final = {"wait": capacity_pb2.OBJECTIVE_KIND_WAIT, "latency": capacity_pb2.OBJECTIVE_KIND_LATENCY}
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Model = Annotated[str, typer.Argument(help="A model of the catalogue; all when none is named.")]
STYLE: Final[dict[str, Any]] = {"box": None, "header_style": "bold"}
console = Console()


def capacity(
    model: Model = "",
    rate: Annotated[float, typer.Option(min=0, help="Requests per second to plan for; else as measured.")] = 0.0,
    objective: Annotated[
        str, typer.Option(help="KIND:PERCENTILE:SECONDS, such as latency:99:0.5 or wait:95:0.1; else the model's own.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show what each model is asked, how long it takes, and how many replicas that needs."""
    request = capacity_pb2.GetCapacityRequest(model=model, rate=rate, objective=_objective(objective))
    client = PoolClient(cli_settings.load())
    found = client.call(capacity_pb2_grpc.CapacityServiceStub, "GetCapacity", request)
    if as_json:
        _print_json(found)
    else:
        show_capacity(console, list(found.models))
        show_memory(console, [each for each in found.models if each.HasField("memory")])


def replicas(model: Model = "", as_json: Json = False) -> None:
    """List the replicas of the models: where they are, whether they get requests, and why not."""
    client = PoolClient(cli_settings.load())
    request = replicas_pb2.ListReplicasRequest(model=model)
    found = client.call(replicas_pb2_grpc.ReplicaServiceStub, "ListReplicas", request)
    if as_json:
        _print_json(found)
    else:
        show_replicas(console, list(found.replicas))


def show_capacity(console: Console, models: list[capacity_pb2.ModelCapacity]) -> None:
    """Print a line for each model; `slots` are those held, of how many, and how many requests wait for one."""
    table = Table("model", "asked", "busy", "slots", "wait p95", "held p50", "batch", "replicas", "for", **STYLE)
    for each in models:
        work, advice = each.workload, each.advice
        if not each.HasField("workload"):
            table.add_row(escape(each.model), *[""] * 7, "[dim]not measured yet[/]")
            continue
        table.add_row(
            escape(each.model),
            f"{advice.rate or work.rate:.1f}/s",
            f"{advice.present.utilisation:.0%}" if each.HasField("advice") else "",
            f"{work.in_flight}/{work.concurrency_limit}+{work.waiting}",
            _milliseconds(work.wait.p95) if work.HasField("wait") else "",
            _milliseconds(work.service.p50),
            _batches(each.execution),
            _needed(each),
            _shown(advice.objective) if each.HasField("advice") else escape(each.reason),
        )
    console.print(table)


def show_memory(console: Console, models: list[capacity_pb2.ModelCapacity]) -> None:
    """Print a line for each model that is loaded on request; nothing when there is none."""
    if not models:
        return
    table = Table("model", "takes", "copies", "loads", "unloads", "evicted", "found in memory", **STYLE)
    for each in models:
        memory = each.memory
        asked = memory.hits + memory.misses
        table.add_row(
            escape(each.model),
            f"{memory.footprint_bytes / (1 << 20):,.0f} MiB",
            str(memory.copies),
            _times(memory.loads, memory.load_s),
            _times(memory.unloads, memory.unload_s),
            str(memory.evictions),
            f"{memory.hits / asked:.1%} of {asked:,}" if asked else "",
        )
    console.print()
    console.print(table)


def show_replicas(console: Console, replicas: list[replicas_pb2.Replica]) -> None:
    """Print a line for each replica."""
    table = Table("model", "address", "in rotation", "outstanding", "breaker", "golden", "version", **STYLE)
    for each in replicas:
        golden = replicas_pb2.GoldenOutcome.Name(each.golden.outcome).rpartition("_")[2].lower()
        why = f"[red]no[/] {escape(each.reason)} {escape(each.detail)}".rstrip()
        table.add_row(
            escape(each.model),
            escape(each.address),
            "[green]yes[/]" if each.in_rotation else why,
            str(each.outstanding),
            replicas_pb2.BreakerPosition.Name(each.breaker).removeprefix("BREAKER_POSITION_").lower(),
            golden if each.HasField("golden") else "",
            escape(each.version),
        )
    console.print(table)


def _objective(text: str) -> capacity_pb2.Objective | None:
    if not text:
        return None
    kind, _, rest = text.partition(":")
    percentile, _, seconds = rest.partition(":")
    try:
        return capacity_pb2.Objective(kind=KINDS[kind], quantile=float(percentile) / 100, seconds=float(seconds))
    except (KeyError, ValueError):
        message = f"{text!r} is not KIND:PERCENTILE:SECONDS, such as latency:99:0.5"
        raise typer.BadParameter(message, param_hint="--objective") from None


def _times(count: int, mean_s: float) -> str:
    return f"{count}, {_milliseconds(mean_s)} each" if count else "0"


def _batches(execution: capacity_pb2.Execution) -> str:
    """Return the mean rows of an execution, and how much the server's response cache knew, if it has one."""
    mean = f"{execution.inferences / execution.executions:.1f}" if execution.executions else ""
    asked = execution.cache_hits + execution.cache_misses
    return f"{mean}, {execution.cache_hits / asked:.0%} cached" if asked else mean


def _needed(model: capacity_pb2.ModelCapacity) -> str:
    now = model.workload.replicas
    if not model.HasField("advice"):
        return f"{now}"
    needed = model.advice.replicas
    colour = "red" if needed > now else "green"
    return f"{now}, needs [{colour}]{needed}[/]"


def _shown(objective: capacity_pb2.Objective) -> str:
    kind = next(name for name, number in KINDS.items() if number == objective.kind)
    return f"{kind} p{objective.quantile * 100:g} {_milliseconds(objective.seconds)}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _print_json(message: capacity_pb2.GetCapacityResponse | replicas_pb2.ListReplicasResponse) -> None:
    print(json.dumps(MessageToDict(message, preserving_proto_field_name=True), indent=2, ensure_ascii=False))
