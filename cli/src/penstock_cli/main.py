"""The commands: up, down, status, logs and trace for the local stack; ingest, ask and models for any Penstock."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from penstock_cli import administration, capacity, configuration, models, residency, score, show, usage
from penstock_cli import settings as cli_settings
from penstock_cli.client import CallFailed, GatewayClient
from penstock_cli.documents import batches, find_files
from penstock_cli.stack.stack import Stack
from penstock_cli.stack.table import StackError
from penstock_cli.traces import draw, read_trace

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.add_typer(configuration.app, name="config")
app.command("usage")(usage.usage)
app.command("capacity")(capacity.capacity)
app.command("replicas")(capacity.replicas)
app.command("residency")(residency.residency)
app.command("score")(score.score)
app.add_typer(models.app, name="models")
app.add_typer(administration.keys_app, name="keys")
app.add_typer(administration.tenants_app, name="tenants")
console = Console()
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command()
def up() -> None:
    """Start every service in the background and wait until all are ready."""
    settings = cli_settings.load()
    stack = Stack(settings)
    with console.status("starting") as status:
        started = stack.up(lambda name, seconds: status.console.print(f"  [green]✓[/] {name:15} {seconds:5.1f} s"))
    console.print("[bold]Penstock is up.[/]" if started else "[bold]Penstock was up already.[/]")
    show.addresses(console, settings.state / "dev.env")


@app.command()
def down() -> None:
    """Stop every service; data stays."""
    stopped = Stack(cli_settings.load()).down()
    console.print("Penstock is down." if stopped else "Penstock was not running.")


@app.command()
def status(as_json: Json = False) -> None:
    """Show every process: state, ports, readiness."""
    reports = Stack(cli_settings.load()).report()
    if as_json:
        _print_json([show.report_row(report) for report in reports])
    else:
        show.processes(console, reports)
    raise typer.Exit(0 if all(report.ready for report in reports) else 1)


@app.command()
def logs(
    names: Annotated[list[str] | None, typer.Argument(help="Processes; all when none is named.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1)] = 50,
) -> None:
    """Show what the processes wrote."""
    files = Stack(cli_settings.load()).log_files(names or [])
    present = [file for file in files.values() if Path(file).exists()]
    if not present:
        raise StackError("nothing has been logged yet")
    subprocess.run(["tail", "-n", str(lines), *(["-F"] if follow else []), *present], check=False)


@app.command()
def trace(
    trace_id: Annotated[str, typer.Argument(help="Trace id, as in x-request-id; its first digits are enough.")],
    as_json: Json = False,
) -> None:
    """Draw a trace of the local stack as a tree."""
    file = cli_settings.load().trace_file
    rows = read_trace(file, trace_id)
    if not rows:
        raise StackError(f"no span of trace {trace_id} is in {file}")
    if as_json:
        _print_json([show.span_row(row) for row in rows])
    else:
        console.print(draw(rows))


@app.command()
def ingest(
    knowledge_base: Annotated[str, typer.Argument(help="Made when it does not exist.")],
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files and folders: txt, md, html, pdf.")],
    as_json: Json = False,
) -> None:
    """Take documents into a knowledge base."""
    files = find_files(paths)
    if not files:
        raise StackError("no .txt, .md, .html or .pdf file is there")
    results: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with GatewayClient(cli_settings.load()) as gateway, Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"into {knowledge_base}", total=len(files))
        for group in batches(files):
            body = {"documents": [file.document() for file in group]}
            for name, event in gateway.events(f"/v1/knowledge-bases/{knowledge_base}/documents", body):
                if name == "progress" and event["status"] in {"stored", "rejected"}:
                    results.append(event)
                    progress.advance(task)
    if as_json:
        _print_json(results)
    else:
        show.ingested(console, results)
    raise typer.Exit(1 if any(result["status"] == "rejected" for result in results) else 0)


@app.command()
def ask(
    knowledge_base: Annotated[str, typer.Argument()],
    question: Annotated[str, typer.Argument()],
    model: Annotated[str, typer.Option(help="A generating model; else the pipeline's own.")] = "",
    top_k: Annotated[int, typer.Option(min=0, max=20, help="Passages shown to the model; 0: the pipeline's own.")] = 0,
    as_json: Json = False,
) -> None:
    """Answer a question from a knowledge base, with its sources."""
    body: dict[str, Any] = {"knowledge_base": knowledge_base, "question": question}
    if model:
        body["model"] = model
    if top_k:
        body["top_k"] = top_k
    with GatewayClient(cli_settings.load()) as gateway:
        answer = gateway.post("/v1/ask", body)
    if as_json:
        _print_json(answer)
    else:
        show.answer(console, question, answer)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def main() -> None:
    """Run the command line; a failure is one line on standard error and exit status 1."""
    try:
        app()
    except (StackError, CallFailed) as error:
        Console(stderr=True).print(f"[red]penstock:[/] {error}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
