"""Writes the chart's profiles as plain manifests: what all have alike is the base, and each overlay adds its own."""

from collections.abc import Mapping, Sequence

import yaml

from deploy.rendering.chart import DEPLOY, PLAIN_PROFILES, Manifest, profile_values, render

FOLDER = DEPLOY / "k8s"
HELMS_OWN = ("helm.sh/chart", "app.kubernetes.io/managed-by")
HEAD = "# Rendered from deploy/helm/penstock by `make chart`; change it there.\n"


def plain(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Return the manifests without what only Helm reads; its tests and hooks are left out."""
    kept = [each for each in manifests if "helm.sh/hook" not in each["metadata"].get("annotations", {})]
    for manifest in kept:
        _strip(manifest)
    return kept


def profile(name: str) -> list[Manifest]:
    """Return the objects of a profile as they are applied without Helm."""
    return plain(render(profile_values(name)))


def key(manifest: Manifest) -> tuple[str, str]:
    """Return what an object is called."""
    return manifest["kind"], manifest["metadata"]["name"]


def files() -> dict[str, str]:
    """Return every generated file by its path below deploy/k8s."""
    profiles = {name: {key(each): each for each in profile(name)} for name in PLAIN_PROFILES}
    first = profiles[PLAIN_PROFILES[0]]
    alike = [each for each in first if all(known.get(each) == first[each] for known in profiles.values())]
    written = _folder("base", [first[each] for each in alike], ["namespace.yaml"])
    written["base/namespace.yaml"] = HEAD + _yaml([_namespace()])
    for name, objects in profiles.items():
        own = [value for each, value in objects.items() if each not in alike]
        written |= _folder(f"overlays/{name}", own, ["../../base"])
    return written


def _folder(path: str, manifests: Sequence[Manifest], resources: list[str]) -> dict[str, str]:
    by_component: dict[str, list[Manifest]] = {}
    for each in manifests:
        component = each["metadata"]["labels"]["app.kubernetes.io/component"]
        by_component.setdefault(component, []).append(each)
    written = {f"{path}/{name}.yaml": HEAD + _yaml(each) for name, each in sorted(by_component.items())}
    names = [f"{name}.yaml" for name in sorted(by_component)]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources + names,
    }
    written[f"{path}/kustomization.yaml"] = HEAD + _yaml([kustomization])
    return written


def _namespace() -> Manifest:
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "penstock", "labels": labels}}


def _strip(node: object) -> None:
    """Take Helm's own labels and annotations out, wherever they stand."""
    if isinstance(node, list):
        for each in node:
            _strip(each)
    if isinstance(node, dict):
        for name in [*HELMS_OWN, "helm.sh/resource-policy"]:
            node.pop(name, None)
        if node.get("annotations") == {}:
            del node["annotations"]
        for each in node.values():
            _strip(each)


def _yaml(manifests: Sequence[Mapping[str, object]]) -> str:
    return yaml.safe_dump_all(manifests, sort_keys=False, width=120)
