"""What people see: tables, the answer with its sources, where the time went."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock_cli.stack.stack import ProcessReport
from penstock_cli.traces import SpanRow


def addresses(console: Console, dev_env: Path) -> None:
    """Print where to call and with which key file."""
    values = dict(line.split("=", 1) for line in dev_env.read_text().splitlines() if "=" in line)
    console.print(f"REST {values['PENSTOCK_URL']} (pages: /docs)   gRPC {values['PENSTOCK_GRPC']}   keys in {dev_env}")


def report_row(report: ProcessReport) -> dict[str, Any]:
    """Return a process as JSON shows it."""
    return {
        "name": report.process.name,
        "state": report.state.state.lower(),
        "ready": report.ready,
        "pid": report.state.pid,
        "uptime_s": report.state.uptime_s,
        "ports": dict(report.process.ports),
    }


def processes(console: Console, reports: Sequence[ProcessReport]) -> None:
    """Print every process in a table."""
    table = Table("process", "state", "ready", "pid", "up", "ports", box=None, header_style="bold")
    for report in reports:
        table.add_row(
            report.process.name,
            report.state.state.lower(),
            "[green]yes[/]" if report.ready else "[red]no[/]",
            str(report.state.pid),
            f"{report.state.uptime_s} s",
            "  ".join(f"{kind} {port}" for kind, port in report.process.ports.items()),
        )
    console.print(table)
    console.print("[dim]Everything listens on 127.0.0.1; Prometheus pages are http://127.0.0.1:METRICS-PORT/metrics[/]")


def models(console: Console, listed: Sequence[dict[str, Any]]) -> None:
    """Print models and pipelines in a table."""
    table = Table("model", "task", "by", "ready", "description", box=None, header_style="bold")
    for model in listed:
        extension = model.get("penstock", {})
        ready = extension.get("ready")
        table.add_row(
            model["id"],
            extension.get("task", ""),
            model["owned_by"],
            "" if ready is None else "[green]yes[/]" if ready else f"[red]no[/] {extension.get('reason', '')}",
            escape(extension.get("description", "")),
        )
    console.print(table)


def ingested(console: Console, results: Sequence[dict[str, Any]]) -> None:
    """Print how many documents went in, and each that did not with its reason."""
    stored = [result for result in results if result["status"] == "stored"]
    changed = [result for result in stored if result.get("changed")]
    chunks = sum(result.get("chunk_count", 0) for result in stored)
    console.print(f"{len(changed)} documents stored, {len(stored) - len(changed)} unchanged, {chunks} chunks")
    for result in results:
        if result["status"] == "rejected":
            console.print(f"  [red]✗[/] {result['document_id']}: {result['message']} ({result['reason']})")


def answer(console: Console, question: str, found: dict[str, Any]) -> None:
    """Print the answer, its sources, how it came about and where the time went."""
    console.print(f"\n[bold]{escape(question)}[/]\n\n{escape(found['answer'])}\n")
    for citation in found["citations"]:
        place = f"{citation['document_id']}, characters {citation['start']} to {citation['end']}"
        console.print(f"  [cyan]\\[{citation['number']}][/] {escape(citation['document_title'])} ({escape(place)})")
        console.print(f"      [dim]“{escape(' '.join(citation['quote'].split()))}”[/]", highlight=False)
    for degradation in found["degradations"]:
        console.print(f"  [yellow]![/] {degradation['step']}: {escape(degradation['message'])}")
    timings = "   ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in found["timings_ms"].items())
    support = "" if found.get("groundedness") is None else f"groundedness {found['groundedness']:.2f}   "
    console.print(f"\n[dim]{support}{timings}\nprovenance {found['id']}[/]", highlight=False)


def span_row(row: SpanRow) -> dict[str, Any]:
    """Return a span as JSON shows it."""
    return asdict(row)
