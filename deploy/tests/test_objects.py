"""Every object of every way to install the chart is one that Kubernetes and the operators take."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helm_python import lint, package
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

from deploy.rendering.chart import CHART, PROFILES, Manifest, profile_values, render
from deploy.tests.profiles import MATRIX, rendered

MINORS = sorted(set(all_versions()), key=lambda text: int(text.split(".")[1]))[-3:]
FIELDS = {
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    "data",
    "rules",
    "roleRef",
    "subjects",
    "automountServiceAccountToken",
}
OPERATORS = yaml.safe_load((Path(__file__).parent / "crds.yaml").read_text())


@cache
def validator(kind: str, api_version: str, minor: str) -> jsonschema.Draft202012Validator:
    """Return what kubernetes_validate would make anew for every object."""
    operator = OPERATORS.get(f"{kind} {api_version}")
    if operator is not None:
        whole = {"properties": {"spec": operator | {"$id": "spec"}}, "required": ["spec"]}
        return jsonschema.Draft202012Validator(whole)
    group, _, version = api_version.rpartition("/")
    file = "-".join([kind.lower(), *([group.split(".")[0]] if group else []), version])
    schema = schema_contents(f"kubernetes-json-schema/v{minor}-local-strict/{file}.json", minor)
    return jsonschema.Draft202012Validator(schema, registry=definitions(minor))


@cache
def definitions(minor: str) -> Any:
    found = schema_contents(f"kubernetes-json-schema/v{minor}-local-strict/_definitions.json", minor)
    return Resource.from_contents(found) @ Registry()


def check(manifest: Manifest, minor: str) -> None:
    assert set(manifest) <= FIELDS
    validator(manifest["kind"], manifest["apiVersion"], minor).validate(manifest)


def distinct() -> dict[str, Manifest]:
    """Return every object of the matrix once, by its text."""
    return {json.dumps(each, sort_keys=True): each for name in MATRIX for each in rendered(name)}


@pytest.mark.parametrize("minor", MINORS)
def test_every_object_is_valid(minor: str) -> None:
    for manifest in distinct().values():
        check(manifest, minor)


def test_an_object_that_is_wrong_is_found() -> None:
    deployment = next(each for each in rendered("cpu") if each["kind"] == "Deployment")
    with pytest.raises(jsonschema.ValidationError):
        check(deployment | {"spec": deployment["spec"] | {"replicaz": 1}}, MINORS[0])
    scaled = next(each for each in rendered("production") if each["kind"] == "ScaledObject")
    with pytest.raises(jsonschema.ValidationError):
        check(scaled | {"spec": scaled["spec"] | {"minReplicas": 1}}, MINORS[0])


@pytest.mark.parametrize("name", MATRIX)
def test_every_object_has_a_name_of_its_own_and_the_releases_labels(name: str) -> None:
    manifests = rendered(name)
    names = Counter((each["kind"], each["metadata"]["name"]) for each in manifests)
    assert [each for each, count in names.items() if count > 1] == []
    for each in manifests:
        assert each["metadata"]["namespace"] == "penstock", each["metadata"]["name"]
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "penstock"
        assert len(each["metadata"]["name"]) <= 63


@pytest.mark.parametrize("profile", PROFILES)
def test_the_linter_has_nothing_to_say(profile: str) -> None:
    report = lint(CHART, profile_values(profile), strict=True, namespace="penstock")
    assert report["errors"] == []
    assert [each for each in report["messages"] if each["severity"] > 1] == []


def test_a_packaged_chart_renders_what_the_folder_does(tmp_path: Path) -> None:
    archive = Path(package(CHART, destination=tmp_path))
    assert archive.name == "penstock-0.1.0.tgz"
    assert archive.stat().st_size < 200_000
    assert render(profile_values("production"), chart=archive) == list(rendered("production"))
