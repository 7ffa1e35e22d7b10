"""`penstock config`: checks a gateway configuration, tells what it would change, and puts it in force."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from penstock_cli import settings as cli_settings
from penstock_cli.settings import Settings
from penstock_cli.stack.keys import write_private
from penstock_cli.stack.live_configuration import live_file
from penstock_cli.stack.table import StackError

CHECK_TIMEOUT_S = 60
LIVE_S = 5

app = typer.Typer(no_args_is_help=True, help="Check, compare and change the gateway's configuration.")
console = Console()
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A gateway.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def asked(settings: Settings, action: str, file: Path) -> dict[str, Any]:
    """Return what the gateway's own checker says of a file; it needs no gateway that runs."""
    command = [sys.executable, "-m", "gateway.adapters.config_command", action, str(file)]
    command += ["--catalogue", str(settings.catalogue), "--live", str(live_file(settings))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=CHECK_TIMEOUT_S)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise StackError(f"the configuration cannot be checked: {done.stderr.strip()[-2000:]}") from error
    return found


def require_right(found: dict[str, Any], file: Path) -> None:
    """Raise StackError with a line for each mistake."""
    if found["problems"]:
        raise StackError("\n".join([f"{file} cannot be used:", *(f"  {line}" for line in found["problems"])]))


@app.command()
def check(file: File, as_json: Json = False) -> None:
    """Check a file as a whole, against the catalogue, too."""
    found = asked(cli_settings.load(), "check", file)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        raise typer.Exit(1 if found["problems"] else 0)
    require_right(found, file)
    console.print(f"{file} is right.", highlight=False)


@app.command()
def diff(file: File, as_json: Json = False) -> None:
    """Show what a file would change of the configuration in force."""
    found = asked(cli_settings.load(), "diff", file)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        raise typer.Exit(1 if found["problems"] else 0)
    require_right(found, file)
    for change in found["changes"]:
        console.print(_line(change), highlight=False, markup=False, soft_wrap=True)
    if not found["changes"]:
        console.print("Nothing would change.")


@app.command(name="apply")
def apply_file(file: File) -> None:
    """Check a file and put it in force; the gateway takes it up within 5 s, without a restart."""
    settings = cli_settings.load()
    part = live_file(settings).with_name("gateway.yaml.new")
    write_private(part, file.read_bytes())
    try:
        require_right(asked(settings, "check", part), file)
        part.replace(live_file(settings))
    finally:
        part.unlink(missing_ok=True)
    console.print(f"{file} is in force within {LIVE_S} s.", highlight=False)


def _line(change: dict[str, Any]) -> str:
    before, after = (json.dumps(change[side], ensure_ascii=False) for side in ("before", "after"))
    if change["before"] is None:
        return f"+ {change['path']}: {after}"
    if change["after"] is None:
        return f"- {change['path']}: {before}"
    return f"~ {change['path']}: {before} -> {after}"
