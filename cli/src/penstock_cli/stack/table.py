"""The service table, deploy/services.yaml, with its placeholders filled in for this machine."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from penstock_cli.settings import ROOT, Settings

HOST = "127.0.0.1"


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
    environment: dict[str, str] = {}


class Table(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    processes: dict[str, ProcessEntry]


@dataclass(frozen=True, slots=True)
class Process:
    """A process ready to be started: no placeholder is left."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ports: Mapping[str, int]
    ready: Ready


def load_processes(settings: Settings, file: Path = ROOT / "deploy/services.yaml") -> list[Process]:
    """Return every process of the stack, in the order of the table; raise StackError for a mistake in it."""
    try:
        table = Table.model_validate(yaml.safe_load(file.read_text()))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise StackError(f"{file.name}: {problems}") from error
    ports = {name: _ports(name, entry, settings) for name, entry in table.processes.items()}
    values = _placeholders(settings, ports)
    return [_process(name, entry, ports[name], values, settings) for name, entry in table.processes.items()]


def _ports(name: str, entry: ProcessEntry, settings: Settings) -> dict[str, int]:
    return {
        kind: settings.ports.get(f"{name}.{kind}", port + settings.port_offset) for kind, port in entry.ports.items()
    }


def _placeholders(settings: Settings, ports: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    values = {
        "root": str(ROOT),
        "state": str(settings.state.absolute()),
        "toolchain": str(settings.toolchain.absolute()),
        "models": str(settings.models.absolute()),
        "catalogue": str(settings.catalogue.absolute()),
    }
    for name, kinds in ports.items():
        for kind, port in kinds.items():
            values[f"{name}.{kind}"] = f"{HOST}:{port}"
            values[f"{name}.{kind}:port"] = str(port)
    return values


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text.replace("{{", "{").replace("}}", "}")


def _process(
    name: str, entry: ProcessEntry, ports: Mapping[str, int], values: Mapping[str, str], settings: Settings
) -> Process:
    command = [sys.executable, "-m", entry.module] if entry.module else entry.command
    filled = [sys.executable if part == "python" else _filled(part, values) for part in command]
    environment = {key: _filled(value, values) for key, value in entry.environment.items()}
    if entry.module:
        environment = _shared(name, ports, values, settings) | environment
    return Process(name, tuple(filled), environment, ports, entry.ready)


def _shared(name: str, ports: Mapping[str, int], values: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return what every service of ours is told."""
    prefix = name.replace("-", "_").upper()
    shared = {
        "ADDRESS": f"{HOST}:{ports['grpc']}",
        "METRICS_ADDRESS": f"{HOST}:{ports['metrics']}",
        "IDENTITY_PUBLIC_KEY_FILE": f"{values['state']}/keys/identity.pub.pem",
        "TRACE_FILE": str(settings.trace_file.absolute()),
        "TRACE_RATIO": str(settings.trace_ratio),
    }
    if settings.otlp_endpoint:
        shared["OTLP_ENDPOINT"] = settings.otlp_endpoint
    return {f"{prefix}_{key}": value for key, value in shared.items()}
