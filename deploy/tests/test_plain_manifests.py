"""What is applied without Helm: the overlays hold what the chart renders, and the rest is valid and safe."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.rendering.chart import DEPLOY, PLAIN_PROFILES, Manifest, profile_values, render
from deploy.rendering.kustomize import HELMS_OWN
from deploy.tests.cluster import Node, Pod, place, quantity
from deploy.tests.test_objects import MINORS, validator

K8S = DEPLOY / "k8s"
BY_HAND = [
    path
    for folder in ("plain", "gpu-nodes")
    for path in (K8S / folder).glob("*.yaml")
    if path.name != "kustomization.yaml"
]


def built(folder: Path) -> list[Manifest]:
    """Return what `kustomize build` gives for a kustomization that has resources and nothing else."""
    kustomization: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) == {"apiVersion", "kind", "resources"}
    found: list[Manifest] = []
    for each in kustomization["resources"]:
        path = (folder / each).resolve()
        found += built(path) if path.is_dir() else [one for one in yaml.safe_load_all(path.read_text()) if one]
    return found


def by_name(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    named = {(each["kind"], each["metadata"]["name"]): each for each in manifests}
    assert len(named) == len(manifests), "kustomize refuses an object that is there twice"
    return named


def without_helm(node: Any) -> Any:
    if isinstance(node, list):
        return [without_helm(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {key: without_helm(value) for key, value in node.items() if key not in HELMS_OWN}
    return {key: value for key, value in kept.items() if key != "annotations" or value}


@pytest.mark.parametrize("profile", PLAIN_PROFILES)
def test_an_overlay_is_what_the_chart_renders(profile: str) -> None:
    applied = by_name(built(K8S / "overlays" / profile))
    assert (
        applied.pop(("Namespace", "penstock"))["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )
    chart = by_name(render(profile_values(profile)))
    assert set(applied) == set(chart)
    assert {key: applied[key] for key in chart} == {key: without_helm(each) for key, each in chart.items()}


def test_nothing_of_helm_is_left() -> None:
    for profile in PLAIN_PROFILES:
        assert "helm.sh" not in json.dumps(built(K8S / "overlays" / profile))


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("file", BY_HAND, ids=lambda path: path.name)
def test_what_is_written_by_hand_is_valid(file: Path, minor: str) -> None:
    for manifest in yaml.safe_load_all(file.read_text()):
        validator(manifest["kind"], manifest["apiVersion"], minor).validate(manifest)


def test_the_plain_server_fits_a_tainted_gpu_node_and_no_other() -> None:
    server = next(
        each for each in yaml.safe_load_all((K8S / "plain/triton.yaml").read_text()) if each["kind"] == "Deployment"
    )
    pod = Pod("triton", server["spec"]["template"], 1, "Deployment")
    large = {"cpu": 16_000, "memory": quantity("64Gi")}
    nodes = [
        Node("cpu", dict(large)),
        Node("gpu", large | {"nvidia.com/gpu": 1000}, {}, [("nvidia.com/gpu", "NoSchedule")]),
    ]
    assert place([pod], nodes) == {"triton": ["gpu"]}


def test_what_the_production_profile_names_is_made_here() -> None:
    classes = {
        each["priorityClassName"] for each in profile_values("production")["pools"] if each.get("priorityClassName")
    }
    made = {yaml.safe_load((K8S / "gpu-nodes/priority.yaml").read_text())["metadata"]["name"]}
    assert classes <= made
    assert {path.name for path in (K8S / "gpu-nodes").glob("*.yaml")} - {"kustomization.yaml"} == set(
        yaml.safe_load((K8S / "gpu-nodes/kustomization.yaml").read_text())["resources"]
    )
