"""Renders the chart with Helm's own engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

DEPLOY = Path(__file__).resolve().parents[1]
CHART = DEPLOY / "helm" / "penstock"
PROFILES = ("cpu", "gpu", "production")
PLAIN_PROFILES = ("cpu", "gpu")
"""Those that are kept as plain manifests, too; of production one writes values of one's own."""
RELEASE = "penstock"

Values = Mapping[str, Any]
Manifest = dict[str, Any]


def profile_values(profile: str, *more: Values) -> dict[str, Any]:
    """Return the values of a profile's file with others laid over them, as Helm lays one `-f` over another."""
    values: dict[str, Any] = yaml.safe_load((CHART / f"values-{profile}.yaml").read_text("utf-8"))
    for each in more:
        values = _laid_over(values, each)
    return values


def render(values: Values, name: str = RELEASE, namespace: str = "penstock", chart: Path = CHART) -> list[Manifest]:
    """Return every object of the release; raise helm_python's HelmError where the values are refused."""
    manifests: list[Manifest] = []
    for file, text in _rendered(values, name, namespace, chart).items():
        if not file.endswith(".txt"):
            manifests += [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]
    return manifests


def notes(values: Values, name: str = RELEASE, namespace: str = "penstock") -> str:
    """Return what Helm prints after an install."""
    return next(text for file, text in _rendered(values, name, namespace, CHART).items() if file.endswith("NOTES.txt"))


def _rendered(values: Values, name: str, namespace: str, chart: Path) -> dict[str, str]:
    with Chart.load(chart) as loaded:
        return loaded.render(dict(values), name=name, namespace=namespace)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    laid = dict(below)
    for key, value in above.items():
        known = laid.get(key)
        laid[key] = _laid_over(known, value) if isinstance(value, Mapping) and isinstance(known, Mapping) else value
    return laid
