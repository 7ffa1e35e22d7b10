"""The platform in containers, as docker-compose.yml has it, for tests that look at it from outside."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from stack_process import ROOT, RunningStack

READY_WITHIN_S = 60.0
POLL_S = 1.0
PROCESSES = ("gateway", "orchestrator", "embedding", "inference", "vector-search", "feature-store", "triton")
PORTS = {"gateway": 9081}
ADMIN = "operator"
LIMITS, PATIENT_LIMITS = "limits: {when_away: local}", "limits: {when_away: closed, timeout_ms: 5000}"
"""No limits of a gateway's own: a slow machine must not turn an exact limit into two local ones."""


class ComposeSettings(BaseSettings):
    """Which containers the platform tests run against; the variables begin with PENSTOCK_TEST_COMPOSE."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_TEST_", frozen=True)
    compose: str = Field(
        "", pattern="^(|default|scale|milvus)$", description="profile to start; empty: processes, no containers"
    )
    compose_port: int = Field(
        28_080, description="port of this machine for REST; gRPC and further gateways come after it"
    )
    compose_project: str = Field("penstock-test", description="name of the containers")
    compose_version: str = Field("0.1.0", description="version of the images")
    compose_next: str = Field("", description="version that the upgrade goes to")
    compose_checkout: Path = Field(ROOT, description="checkout of the version to start, with its docker-compose.yml")
    compose_ready_s: float = Field(READY_WITHIN_S, description="seconds the stack may take to be ready")
    path: str = Field("/usr/bin:/bin", validation_alias="PATH")


@dataclass(frozen=True, slots=True)
class Compose:
    """One installation: its command line, and where its containers are told to look."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    project: str
    checkout: Path

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a compose command; raise RuntimeError with what it said when it fails and `check` is on."""
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=self.checkout,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what the engine says of each container that is meant to run, by service."""
        listed = docker(
            "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}"
        ).split()
        found = json.loads(docker("inspect", *listed)) if listed else []
        named = {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}
        named.pop("setup", None)
        return named

    def admin(self, *arguments: str, gateway: str = "gateway") -> Any:
        """Run `gateway.admin` inside a gateway and return its answer."""
        program = ("python3", "/opt/penstock/start.py", "-m", "gateway.admin")
        return json.loads(self.run("exec", "-T", gateway, *program, *arguments).stdout)

    def failure(self, reason: str) -> AssertionError:
        """Return an error with what the containers are and last said."""
        found = self.containers().items()
        states = {name: each["State"].get("Health", each["State"])["Status"] for name, each in found}
        logs = self.run("logs", "--no-color", "--tail=15", check=False).stdout
        return AssertionError(f"{reason}: {states}\n{logs[-8000:]}")


@dataclass(frozen=True, slots=True)
class ContainerStack(RunningStack):
    """A stack whose processes are containers; `others` are the doors of further gateways, REST and gRPC."""

    compose: Compose
    others: tuple[tuple[str, str], ...] = ()

    def serving(self) -> str:
        """Return which door or service does not answer, seen from outside through every gateway; empty: all do."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        body = {"model": "minilm-l6", "input": "Is everybody there?"}
        question = {"knowledge_base": "nothing-yet", "question": "Is everybody there?"}
        with httpx.Client(headers=headers, timeout=10, trust_env=False) as client:
            for url in (self.url, *(rest for rest, _ in self.others)):
                try:
                    asked = {
                        "gateway": client.get(f"{url}/healthz/ready").is_success,
                        "embedding": client.post(f"{url}/v1/embeddings", json=body).is_success,
                        "feature-store": client.get(f"{url}/v1/features").is_success,
                        "orchestrator": client.post(f"{url}/v1/ask", json=question).status_code in {200, 404},
                    }
                except httpx.TransportError as error:
                    return f"{url}: {error!r}"
                if missing := [name for name, well in asked.items() if not well]:
                    return f"{url}: {', '.join(missing)}"
        return ""

    def await_serving(self, within_s: float) -> float:
        """Wait until all of it answers and return the seconds it took; raise AssertionError with the logs if not."""
        begun = time.monotonic()
        while missing := self.serving():
            if time.monotonic() - begun > within_s:
                raise self.compose.failure(f"after {within_s:.0f} s does not answer: {missing}")
            time.sleep(POLL_S)
        return time.monotonic() - begun

    def penstock(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `penstock` command against this stack; what it configures can be read by the containers' user."""
        done = RunningStack.penstock(self, *arguments, check=check)
        (Path(self.environment["PENSTOCK_STATE"]) / "gateway.yaml").chmod(0o644)
        return done

    def processes(self) -> list[dict[str, Any]]:
        """Return the containers in the words of `penstock status --json`."""
        return [
            {
                "name": name,
                "pid": each["State"]["Pid"],
                "ready": _well(each),
                "host": next((net["IPAddress"] for net in each["NetworkSettings"]["Networks"].values()), ""),
                "ports": {"metrics": PORTS.get(name, 0)},
            }
            for name, each in self.compose.containers().items()
        ]

    def pid(self, name: str) -> int:
        """Return the process id, on this machine, of the first process of a container."""
        return int(self.compose.containers()[name]["State"]["Pid"])


def docker(*arguments: str) -> str:
    """Run a docker command and return what it printed."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def bridge_address() -> str:
    """Return the address of this machine that containers can reach.

    An engine that found its bridge there when it started tells the subnet alone; its address is the first of that.
    """
    (network,) = json.loads(docker("network", "inspect", "bridge"))
    config = network["IPAM"]["Config"][0]
    return config.get("Gateway") or str(next(ip_network(config["Subnet"]).hosts()))


def compose_command() -> tuple[str, ...]:
    """Return the compose that this machine has: the plugin (v2) or the program of its own (1.29)."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ("docker", "compose")
    found = shutil.which("docker-compose")
    assert found is not None, "neither `docker compose` nor `docker-compose` is on this machine"
    return (found,)


def surroundings() -> dict[str, str]:
    """Return our environment without what configures the platform, but with the images that its engines have."""
    ours = ("PENSTOCK_", "COMPOSE_")
    return {
        name: value
        for name, value in os.environ.items()  # noqa: TID251  for Docker's command line
        if not name.startswith(ours) or name.endswith("_IMAGE")
    }


def installation(settings: ComposeSettings, folder: Path, catalogue: Path) -> Compose:
    """Return an installation that keeps its configuration in `folder` and takes this catalogue; nothing starts yet."""
    port, checkout = settings.compose_port, settings.compose_checkout.absolute()
    configuration, models = folder / "configuration", folder / "catalogue"
    for place, file in ((configuration, checkout / "deploy/local/gateway.yaml"), (models, catalogue)):
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / ("gateway.yaml" if place == configuration else "catalogue.yaml"))
        for path in (folder, place):  # the containers' user is not ours
            path.chmod(0o755)
    if settings.compose == "scale":
        file = configuration / "gateway.yaml"
        text = file.read_text()
        assert LIMITS in text, f"{file} says something else of limits"
        file.write_text(text.replace(LIMITS, PATIENT_LIMITS))
    environment = {
        **surroundings(),
        "COMPOSE_PROJECT_NAME": settings.compose_project,
        "PENSTOCK_VERSION": settings.compose_version,
        "PENSTOCK_CATALOGUE": str(models),
        "PENSTOCK_CONFIGURATION": str(configuration),
        "PENSTOCK_REST_PORT": str(port),
        "PENSTOCK_GRPC_PORT": str(port + 1),
        "PENSTOCK_REST_PORT_2": str(port + 2),
        "PENSTOCK_GRPC_PORT_2": str(port + 3),
        "PENSTOCK_PROMETHEUS_PORT": str(port + 4),
    }
    chosen = ("--env-file", str(checkout / f"deploy/compose/{settings.compose}.env"))
    profile = chosen if settings.compose != "default" else ()
    return Compose((*compose_command(), *profile), environment, settings.compose_project, checkout)


def connect(compose: Compose, settings: ComposeSettings, configuration: Path) -> ContainerStack:
    """Make the keys that tests use and return the stack."""
    port = settings.compose_port
    end = time.monotonic() + settings.compose_ready_s
    while not _ready(f"http://127.0.0.1:{port}"):
        if time.monotonic() > end:
            raise compose.failure("the gateway is not ready")
        time.sleep(POLL_S)
    api_key = compose.admin("create", "--tenant", "demo", "--name", "tests")["key"]
    admin_key = compose.admin("create", "--tenant", ADMIN, "--admin")["key"]
    others = ((f"http://127.0.0.1:{port + 2}", f"127.0.0.1:{port + 3}"),) if settings.compose == "scale" else ()
    url, grpc = f"http://127.0.0.1:{port}", f"127.0.0.1:{port + 1}"
    catalogue = Path(compose.environment["PENSTOCK_CATALOGUE"]) / "catalogue.yaml"
    told = {"PENSTOCK_STATE": configuration, "PENSTOCK_CATALOGUE": catalogue}
    told |= {"PENSTOCK_URL": url, "PENSTOCK_GRPC": grpc}
    keys = {"PENSTOCK_API_KEY": api_key, "PENSTOCK_ADMIN_KEY": admin_key}
    environment = {"PATH": settings.path, **{name: str(value) for name, value in told.items()}, **keys}
    return ContainerStack(url, grpc, api_key, admin_key, environment, compose, others)


@contextmanager
def running_compose(settings: ComposeSettings, folder: Path, catalogue: Path) -> Iterator[ContainerStack]:
    """Start the containers, yield the stack, and remove them with their volumes."""
    compose = installation(settings, folder, catalogue)
    compose.run("down", "--volumes", "--remove-orphans", check=False)
    try:
        begun = time.monotonic()
        compose.run("up", "--detach", "--no-build")
        stack = connect(compose, settings, folder / "configuration")
        stack.await_serving(settings.compose_ready_s)
        took_s = time.monotonic() - begun
        print(f"\n{settings.compose}: {len(compose.containers())} containers serve after {took_s:.1f} s")
        assert took_s <= settings.compose_ready_s
        yield stack
    finally:
        compose.run("down", "--volumes", "--remove-orphans", check=False)


def _well(container: dict[str, Any]) -> bool:
    """Return whether a container runs and, if it has a health check, passes it.

    The engine looks for the first time ten seconds after a start; a container that it has not looked at yet is asked.
    """
    state = container["State"]
    health = state.get("Health", {"Status": "healthy"})["Status"]
    if not state["Running"] or health != "starting":
        return bool(state["Running"] and health == "healthy")
    probe = ["docker", "exec", container["Id"], *container["Config"]["Healthcheck"]["Test"][1:]]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz/ready", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False
