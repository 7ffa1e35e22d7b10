"""A whole stack of its own for tests and benchmarks: other ports, another state directory, the same installed tools."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PENSTOCK = Path(sys.executable).parent / "penstock"


@dataclass(frozen=True, slots=True)
class RunningStack:
    """Where the stack listens, the keys it takes, and how to reach its command line."""

    url: str
    grpc: str
    api_key: str = field(repr=False)
    admin_key: str = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)

    def penstock(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `penstock` command against this stack."""
        command = [str(PENSTOCK), *arguments]
        return subprocess.run(command, env=dict(self.environment), capture_output=True, text=True, check=check)

    def processes(self) -> list[dict[str, Any]]:
        """Return every process as `penstock status --json` has it."""
        return list(json.loads(self.penstock("status", "--json", check=False).stdout))

    def pid(self, name: str) -> int:
        """Return the process id of a service."""
        return next(int(row["pid"]) for row in self.processes() if row["name"] == name)


@contextmanager
def running_stack(state: Path, port_offset: int, settings: Mapping[str, str]) -> Iterator[RunningStack]:
    """Start a stack, yield it, and stop it; raise CalledProcessError with its output when it does not come up."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}  # noqa: TID251
    environment = {**kept, "PENSTOCK_STATE": str(state), "PENSTOCK_PORT_OFFSET": str(port_offset), **settings}
    state.mkdir(parents=True, exist_ok=True)
    up = subprocess.run([str(PENSTOCK), "up"], env=environment, capture_output=True, text=True, check=False)
    try:
        if up.returncode != 0:
            raise RuntimeError(f"the stack did not start:\n{up.stdout}\n{up.stderr}")
        yield connected(state, environment)
    finally:
        subprocess.run([str(PENSTOCK), "down"], env=environment, capture_output=True, check=False)


def connected(state: Path, environment: Mapping[str, str]) -> RunningStack:
    """Return the stack that runs in a state directory."""
    values = dict(line.split("=", 1) for line in (state / "dev.env").read_text().splitlines())
    return RunningStack(
        values["PENSTOCK_URL"],
        values["PENSTOCK_GRPC"],
        values["PENSTOCK_API_KEY"],
        values["PENSTOCK_ADMIN_KEY"],
        environment,
    )
