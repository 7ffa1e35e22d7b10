"""The service table, deploy/services.yaml, with its placeholders filled in for this machine or for containers."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from penstock_cli.settings import ROOT, Settings

HOST = "127.0.0.1"
ANY_HOST = "0.0.0.0"  # noqa: S104  inside a container, whose network decides who reaches it
TABLE = ROOT / "deploy/services.yaml"


class StackError(Exception):
    """The stack cannot do what was asked; the message says why and what helps."""


class Ready(BaseModel):
    """How readiness is asked: over gRPC health or HTTP, on the port of that name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    grpc: str | None = None
    http: str | None = None
    path: str = "/"


class ProcessEntry(BaseModel):
    """A process as the table has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    module: str | None
    command: list[str] = []
    ports: dict[str, int]
    ready: Ready
    live: Ready
    calls: list[str] = []
    stores: dict[Literal["database", "redis", "milvus"], str] = {}
    keeps: Literal["always", "embedded"] | None = None
    copies: Literal["one", "many"] = "many"
    outside: bool = False
    environment: dict[str, str] = {}

    @model_validator(mode="after")
    def _asked_where_it_listens(self) -> "ProcessEntry":
        asked = [port for probe in (self.ready, self.live) for port in (probe.grpc, probe.http) if port]
        unknown = [port for port in asked if port not in self.ports]
        if unknown:
            raise ValueError(f"ready and live ask the port {unknown[0]!r}, which is not in ports")
        return self


class Table(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    containers: dict[str, str]
    shared: dict[str, str]
    mtls: dict[str, str]
    processes: dict[str, ProcessEntry]

    @model_validator(mode="after")
    def _known_edges(self) -> "Table":
        for name, entry in self.processes.items():
            unknown = [called for called in entry.calls if called not in self.processes]
            if unknown:
                raise ValueError(f"processes.{name}.calls: there is no process {unknown[0]!r}")
        return self


@dataclass(frozen=True, slots=True)
class Process:
    """A process ready to be started: no placeholder is left."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ports: Mapping[str, int]
    ready: Ready


def read_table(file: Path = TABLE) -> Table:
    """Return the table as it is written; raise StackError for a mistake in it."""
    try:
        return Table.model_validate(yaml.safe_load(file.read_text()))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise StackError(f"{file.name}: {problems}") from error


def load_processes(settings: Settings, file: Path = TABLE) -> list[Process]:
    """Return every process of the stack, in the order of the table; raise StackError for a mistake in it."""
    table = read_table(file)
    ports = {name: _ports(name, entry, settings) for name, entry in table.processes.items()}
    values = _addresses(ports, dict.fromkeys(ports, HOST)) | _folders(settings)
    processes = []
    for name in table.processes:
        own = _own(name, ports[name], f"{settings.state.absolute()}/data/{name}")
        process = _process(name, table, ports[name], values | own)
        processes.append(_observed(process, settings) if table.processes[name].module else process)
    return processes


def container_processes(table: Table, hosts: Mapping[str, str], *, mtls: bool) -> list[Process]:
    """Return every process as it runs in a container, where others are reached under `hosts` (name: host)."""
    ports = {name: entry.ports for name, entry in table.processes.items()}
    values = _addresses(ports, hosts) | dict(table.containers) | {"host": ANY_HOST}
    return [
        _process(name, table, ports[name], values | _own(name, ports[name], table.containers["data"]), mtls=mtls)
        for name in table.processes
    ]


def _ports(name: str, entry: ProcessEntry, settings: Settings) -> dict[str, int]:
    return {
        kind: settings.ports.get(f"{name}.{kind}", port + settings.port_offset) for kind, port in entry.ports.items()
    }


def _folders(settings: Settings) -> dict[str, str]:
    state = settings.state.absolute()
    return {
        "python": sys.executable,
        "host": HOST,
        "keys": f"{state}/keys",
        "tls": f"{state}/tls",
        "toolchain": str(settings.toolchain.absolute()),
        "models": str(settings.models.absolute()),
        "catalogue": str(settings.catalogue.absolute()),
        "configuration": f"{state}/gateway.yaml",
        "features": f"{ROOT}/services/feature-store/feature_repo",
    }


def _addresses(ports: Mapping[str, Mapping[str, int]], hosts: Mapping[str, str]) -> dict[str, str]:
    values = {}
    for name, kinds in ports.items():
        for kind, port in kinds.items():
            values[f"{name}.{kind}"] = f"{hosts[name]}:{port}"
            values[f"{name}.{kind}:port"] = str(port)
    return values


def _own(name: str, ports: Mapping[str, int], data: str) -> dict[str, str]:
    """Return the placeholders that mean something else for each process."""
    return {"data": data, "self": name} | {f"self.{kind}:port": str(port) for kind, port in ports.items()}


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text.replace("{{", "{").replace("}}", "}")


def _process(
    name: str, table: Table, ports: Mapping[str, int], values: Mapping[str, str], *, mtls: bool = False
) -> Process:
    entry = table.processes[name]
    command = ["python", "-m", entry.module] if entry.module else entry.command
    filled = [values.get("python", part) if part == "python" else _filled(part, values) for part in command]
    raw = dict(entry.environment)
    if entry.module:
        called = [other for other in entry.calls if table.processes[other].module]
        told = table.shared | (table.mtls if mtls else {})
        told |= {f"{_variable(other)}_ADDRESS": "{" + f"{other}.grpc" + "}" for other in called}
        raw = {f"{_variable(name)}_{key}": value for key, value in told.items()} | raw
    environment = {key: _filled(value, values) for key, value in raw.items()}
    return Process(name, tuple(filled), environment, ports, entry.ready)


def _variable(name: str) -> str:
    return name.replace("-", "_").upper()


def _observed(process: Process, settings: Settings) -> Process:
    """Return the process with where its spans go on this machine."""
    told = {"TRACE_FILE": str(settings.trace_file.absolute()), "TRACE_RATIO": str(settings.trace_ratio)}
    if settings.otlp_endpoint:
        told["OTLP_ENDPOINT"] = settings.otlp_endpoint
    added = {f"{_variable(process.name)}_{key}": value for key, value in told.items()}
    return Process(process.name, process.command, added | dict(process.environment), process.ports, process.ready)
