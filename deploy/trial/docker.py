"""Starts the containers of a rendered pod in Docker, with all that a kubelet would give them, and asks their probes."""
# ruff: noqa: S603, S607  the command line of Docker is what this module is about

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.rendering.chart import Manifest

ASK_TIMEOUT_S = 10.0
CPUS = {"m": 0.001, "": 1.0}


class DockerFailed(Exception):
    """Docker refused something; the message is its own."""


def docker(*arguments: str, timeout_s: float = 120.0) -> str:
    """Run the command line and return what it printed; raise DockerFailed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise DockerFailed(f"docker {arguments[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where pods run: a network, the folder with the content of secrets and configuration maps, and more variables."""

    network: str
    folder: Path
    variables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    mounts: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)

    def write_maps(self, manifests: list[Manifest]) -> None:
        """Write the files of every configuration map."""
        for each in manifests:
            if each["kind"] == "ConfigMap":
                for name, text in each["data"].items():
                    path = self.folder / each["metadata"]["name"] / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text)
                    path.chmod(0o444)

    def start(self, component: str, alias: str, pod: Mapping[str, Any]) -> "Running":
        """Start the one container of a pod under the name of its Service."""
        (container,) = pod["containers"]
        name = f"{self.network}-{component}"
        user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
        limits = container["resources"]["limits"]
        options = ["--network", self.network, "--network-alias", alias, "--user", user, "--read-only"]
        options += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--no-healthcheck"]
        options += ["--restart", "always" if pod.get("restartPolicy", "Always") == "Always" else "no"]
        options += ["--memory", limits["memory"].lower().removesuffix("i"), "--cpus", str(_cpus(limits["cpu"]))]
        options += self._environment(component, container) + self._volumes(component, pod, container)
        command = list(container.get("command", ()))
        if command:
            options += ["--entrypoint", command[0]]
        words = command[1:] + list(container.get("args", ()))
        docker("run", "--detach", "--name", name, *options, container["image"], *words)
        return Running(name, component, self.network, container)

    def _environment(self, component: str, container: Mapping[str, Any]) -> list[str]:
        told = dict(self.variables.get(component, {}))
        for each in container.get("env", ()):
            if "value" in each:
                told[each["name"]] = each["value"]
            else:
                of = each["valueFrom"]["secretKeyRef"]
                told[each["name"]] = (self.folder / of["name"] / of["key"]).read_text()
        return [word for name, value in told.items() for word in ("--env", f"{name}={value}")]

    def _volumes(self, component: str, pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
        volumes = {each["name"]: each for each in pod["volumes"]}
        owner = f"uid={pod['securityContext']['runAsUser']},gid={pod['securityContext']['runAsGroup']}"
        words: list[str] = []
        for mount in container["volumeMounts"]:
            words += self._volume(volumes[mount["name"]], mount["mountPath"], owner)
        for path, source in self.mounts.get(component, {}).items():
            words += ["--volume", f"{source}:{path}:ro"]
        return words

    def _volume(self, volume: Mapping[str, Any], path: str, owner: str) -> list[str]:
        if "emptyDir" in volume:
            size = volume["emptyDir"]["sizeLimit"].lower().removesuffix("i")
            if path == "/dev/shm":  # noqa: S108  where POSIX shared memory lies
                return ["--shm-size", size]
            return ["--tmpfs", f"{path}:exec,mode=0755,size={size},{owner}"]
        if "configMap" in volume:
            return ["--volume", f"{self.folder / volume['configMap']['name']}:{path}:ro"]
        secret = volume["secret"]
        files = secret.get("items") or [{"key": key, "path": key} for key in ("tls.crt", "tls.key", "ca.crt")]
        from_folder = self.folder / secret["secretName"]
        mounted = [f"{from_folder / each['key']}:{path}/{each['path']}:ro" for each in files]
        return [word for each in mounted for word in ("--volume", each)]


@dataclass(frozen=True, slots=True)
class Running:
    """A container that was started."""

    name: str
    component: str
    network: str
    container: Mapping[str, Any]

    def address(self) -> str:
        """Return where it is now: a start may change that."""
        networks = json.loads(docker("inspect", self.name))[0]["NetworkSettings"]["Networks"]
        return str(networks[self.network]["IPAddress"])

    def refusal(self, probe: str) -> str:
        """Ask a probe of the container the way kubelet does, and return why it fails; nothing where it passes."""
        asked = self.container[probe]
        if "httpGet" in asked:
            ports = {each["name"]: each["containerPort"] for each in self.container["ports"]}
            return _refusal(f"http://{self.address()}:{ports[asked['httpGet']['port']]}{asked['httpGet']['path']}")
        command = ["docker", "exec", self.name, *asked["exec"]["command"]]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return f"no answer in {ASK_TIMEOUT_S:.0f} s"
        return "" if done.returncode == 0 else done.stderr.strip() or f"it ended with {done.returncode}"

    def restarts(self) -> int:
        """Return how often it has ended and was started again."""
        return int(docker("inspect", "--format", "{{.RestartCount}}", self.name))

    def log(self, lines: int = 20) -> str:
        """Return the end of what it wrote."""
        done = subprocess.run(
            ["docker", "logs", "--tail", str(lines), self.name], capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr


def remove(network: str) -> None:
    """Remove the containers of a network, and the network."""
    for name in _names(network):
        docker("rm", "--force", "--volumes", name)
    subprocess.run(["docker", "network", "rm", network], capture_output=True, check=False)


def _names(network: str) -> Iterator[str]:
    yield from docker("ps", "--all", "--filter", f"name=^{network}-", "--format", "{{.Names}}").split()


def _refusal(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ASK_TIMEOUT_S):
            return ""
    except OSError as error:
        return f"{url}: {error}"


def _cpus(amount: object) -> float:
    """Return cores, as many as this machine has at the most: Docker refuses more."""
    text = str(amount)
    unit = "m" if text.endswith("m") else ""
    return min(int(text.removesuffix("m")) * CPUS[unit], float(os.cpu_count() or 1))
