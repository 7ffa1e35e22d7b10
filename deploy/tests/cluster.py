"""A cluster to test against: which pods the scheduler would put where, and who may talk to whom."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.rendering.chart import Manifest

UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
Labels = Mapping[str, str]


class Unplaced(Exception):
    """No node takes a pod."""


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    template: Manifest
    replicas: int
    kind: str

    @property
    def labels(self) -> Labels:
        return self.template["metadata"]["labels"]

    @property
    def spec(self) -> dict[str, Any]:
        return self.template["spec"]

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def requests(self) -> dict[str, int]:
        """What the scheduler counts: all containers together, or the largest of those before them."""
        together: dict[str, int] = {}
        for container in self.spec["containers"]:
            for name, amount in container["resources"]["requests"].items():
                together[name] = together.get(name, 0) + quantity(amount)
        for container in self.spec.get("initContainers", ()):
            for name, amount in container["resources"]["requests"].items():
                together[name] = max(together.get(name, 0), quantity(amount))
        return together


@dataclass(slots=True)
class Node:
    name: str
    free: dict[str, int]
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[tuple[str, str]] = field(default_factory=list)

    def refuses(self, pod: Pod) -> str:
        """Say why the pod cannot run here; nothing where it can."""
        for key, effect in self.taints:
            if not any(_tolerates(each, key, effect) for each in pod.spec.get("tolerations", ())):
                return f"{self.name} has the taint {key}"
        wanted = pod.spec.get("nodeSelector", {})
        if any(self.labels.get(key) != value for key, value in wanted.items()):
            return f"{self.name} has not the labels {wanted}"
        terms = (
            pod.spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
        )
        if terms and not any(self._fits(term) for term in terms["nodeSelectorTerms"]):
            return f"{self.name} does not fit the affinity"
        short = [name for name, amount in pod.requests().items() if self.free.get(name, 0) < amount]
        return f"{self.name} lacks {', '.join(short)}" if short else ""

    def _fits(self, term: Mapping[str, Any]) -> bool:
        assert {each["operator"] for each in term["matchExpressions"]} == {"In"}
        return all(self.labels.get(each["key"]) in each["values"] for each in term["matchExpressions"])


def quantity(text: object) -> int:
    """Return thousandths of cores for 500m or 2 (of "cpu"), bytes for 1Gi, and a plain number a thousandfold."""
    matched = re.fullmatch(r"(\d+)(m|Ki|Mi|Gi|Ti)?", str(text))
    assert matched, text
    number, unit = int(matched[1]), matched[2] or ""
    return number if unit == "m" else number * UNITS[unit] * (1000 if unit == "" else 1)


def pods(manifests: Iterable[Manifest]) -> list[Pod]:
    """Return what runs; a workload that something scales counts with its least replicas."""
    manifests = list(manifests)
    least: dict[str, int] = {}
    for each in manifests:
        if each["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}:
            spec = each["spec"]
            least[each["metadata"]["name"]] = spec.get("minReplicas", spec.get("minReplicaCount"))
    return [
        Pod(name, each["spec"]["template"], least.get(name, each["spec"].get("replicas")), each["kind"])
        for each in manifests
        if each["kind"] in {"Deployment", "StatefulSet"}
        for name in [each["metadata"]["name"]]
    ]


def place(wanted: Iterable[Pod], nodes: list[Node]) -> dict[str, list[str]]:
    """Return the nodes of each workload, the largest first and spread as the scheduler would; raise Unplaced."""
    placed: dict[str, list[str]] = {}
    each_pod = [pod for pod in wanted for _ in range(pod.replicas)]
    for pod in sorted(each_pod, key=lambda pod: -sum(pod.requests().values())):
        reasons = {node.name: node.refuses(pod) for node in nodes}
        fitting = [node for node in nodes if not reasons[node.name]]
        if not fitting:
            raise Unplaced(f"{pod.name}: {'; '.join(reasons.values())}")
        there = placed.setdefault(pod.name, [])
        best = min(fitting, key=lambda node: (there.count(node.name), -node.free["cpu"]))
        for name, amount in pod.requests().items():
            best.free[name] -= amount
        there.append(best.name)
    return placed


def edges(manifests: Iterable[Manifest]) -> Iterator[tuple[str, str, int]]:
    """Yield who reaches whom on which port, among the pods, as the network policies have it."""
    manifests = list(manifests)
    policies = [each["spec"] for each in manifests if each["kind"] == "NetworkPolicy"]
    running = pods(manifests)
    for caller in running:
        for called in running:
            for container in called.spec["containers"]:
                for port in container["ports"]:
                    number = port["containerPort"]
                    if _lets(policies, "Egress", caller.labels, called.labels, number) and _lets(
                        policies, "Ingress", called.labels, caller.labels, number
                    ):
                        yield caller.component, called.component, number


def _lets(policies: list[dict[str, Any]], way: str, own: Labels, other: Labels, port: int) -> bool:
    chosen = [each for each in policies if way in each["policyTypes"] and _selects(each["podSelector"], own)]
    if not chosen:
        return True
    peers = "to" if way == "Egress" else "from"
    rules = [rule for each in chosen for rule in each.get(way.lower(), ())]
    return any(
        any(each["port"] == port for each in rule["ports"])
        and (peers not in rule or any(_is(peer, other) for peer in rule[peers]))
        for rule in rules
    )


def _is(peer: Mapping[str, Any], labels: Labels) -> bool:
    """Say whether a peer may be a pod of this release: one of another namespace is none."""
    if "ipBlock" in peer:
        return True
    return "namespaceSelector" not in peer and _selects(peer["podSelector"], labels)


def _selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _tolerates(toleration: Mapping[str, str], key: str, effect: str) -> bool:
    known = toleration.get("key") == key and toleration.get("effect") in {effect, None}
    return known and toleration.get("operator", "Equal") == "Exists"
