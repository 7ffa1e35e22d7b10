"""What every pod keeps to: restricted security, bounded resources, pinned images, no secret where none belongs."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from penstock_cli.stack.table import read_table

from deploy.rendering.chart import Manifest, profile_values, render
from deploy.tests.cluster import Pod, pods
from deploy.tests.profiles import MATRIX, rendered

SECRET = re.compile(
    r"PRIVATE KEY|postgres(ql)?://|rediss?://|Bearer |(password|api_key|secret|token)\s*[:=]", re.IGNORECASE
)


def every_pod(name: str) -> Iterator[Pod]:
    yield from pods(rendered(name))
    for each in rendered(name):
        if each["kind"] == "Pod":
            yield Pod(each["metadata"]["name"], {"metadata": each["metadata"], "spec": each["spec"]}, 1, "Pod")


@pytest.mark.parametrize("name", MATRIX)
def test_every_container_is_restricted_and_bounded(name: str) -> None:
    for pod in every_pod(name):
        assert pod.spec["automountServiceAccountToken"] is (pod.component == "inference"), pod.name
        assert pod.spec["securityContext"]["runAsNonRoot"] is True
        assert pod.spec["securityContext"]["runAsUser"] > 0
        for container in pod.containers():
            security = container["securityContext"]
            assert security["runAsNonRoot"] is True, (pod.name, container["name"])
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind]), (pod.name, container["name"], kind)


@pytest.mark.parametrize("name", MATRIX)
def test_no_volume_is_of_a_kind_that_restricted_namespaces_refuse(name: str) -> None:
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "image"}
    allowed |= {"hostPath"} if name == "models of a host" else set()
    for pod in every_pod(name):
        for volume in pod.spec["volumes"]:
            assert set(volume) - {"name"} <= allowed, (pod.name, volume)


@pytest.mark.parametrize("name", MATRIX)
def test_every_image_is_pinned(name: str) -> None:
    for pod in every_pod(name):
        for container in pod.containers():
            image = container["image"]
            assert re.search(r":[^/:@]+$|@sha256:[0-9a-f]{64}$", image), image
            assert not image.endswith(":latest")


@pytest.mark.parametrize("name", MATRIX)
def test_no_secret_stands_in_a_configuration_map_or_in_the_environment(name: str) -> None:
    for each in rendered(name):
        assert each["kind"] != "Secret"
        for file, text in each.get("data", {}).items():
            # the chart's own programs are the same in every installation
            found = None if file.endswith((".py", ".sh")) else SECRET.search(text)
            assert found is None, (each["metadata"]["name"], found)
    for pod in every_pod(name):
        for container in pod.containers():
            for variable in container.get("env", ()):
                if re.search(r"(URL|TOKEN|PASSWORD|SECRET|API_KEY)$", variable["name"]) and "value" in variable:
                    assert variable["name"] == "PENSTOCK_URL", variable


@pytest.mark.parametrize("name", MATRIX)
def test_probes_ask_ports_that_exist_and_liveness_is_more_patient_than_readiness(name: str) -> None:
    for pod in pods(rendered(name)):
        container = pod.spec["containers"][0]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]
            if "httpGet" in probe:
                assert probe["httpGet"]["port"] in ports, (pod.name, kind)
            elif "grpc" in probe:
                assert probe["grpc"]["port"] == ports["grpc"]
            else:
                assert str(ports["http" if "pool" in pod.name else "grpc"]) in " ".join(probe["exec"]["command"])
            assert probe["timeoutSeconds"] <= probe["periodSeconds"] or kind == "startupProbe"
        assert tolerance_s(container["livenessProbe"]) > tolerance_s(container["readinessProbe"])


def tolerance_s(probe: dict[str, Any]) -> int:
    return int(probe["periodSeconds"] * probe["failureThreshold"])


@pytest.mark.parametrize("name", MATRIX)
def test_a_pod_has_time_to_leave_and_to_end_what_runs(name: str) -> None:
    for pod in pods(rendered(name)):
        container = pod.spec["containers"][0]
        leave_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        settings = {each["name"]: each.get("value", "") for each in container["env"]}
        drain_s = next((float(value) for key, value in settings.items() if key.endswith("_DRAIN_S")), 0.0)
        exits = [part for part in container.get("command", ()) if part.startswith("--exit-timeout-secs=")]
        end_s = float(exits[0].split("=")[1]) if exits else drain_s
        assert leave_s > 0
        assert pod.spec["terminationGracePeriodSeconds"] > leave_s + end_s


@pytest.mark.parametrize("name", MATRIX)
def test_who_keeps_files_has_them_mounted_where_its_settings_look(name: str) -> None:
    table = read_table()
    for pod in pods(rendered(name)):
        container = pod.spec["containers"][0]
        mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
        claims = {"data"} if pod.kind == "StatefulSet" else set()
        assert {each["name"] for each in mounts.values()} <= {each["name"] for each in pod.spec["volumes"]} | claims
        assert {each["name"] for each in pod.spec["volumes"]} <= {each["name"] for each in mounts.values()}
        for value in (each.get("value", "") for each in container["env"]):
            for kind in ("data", "keys", "tls"):
                root = table.containers[kind]
                if value.startswith(root) and not (kind == "data" and pod.component == "inference"):
                    assert root in mounts, (pod.name, value)


def test_a_secret_in_a_configuration_map_would_be_found() -> None:
    for text in ("url: postgresql://u:p@h/d", "api_key: sk-1", "-----BEGIN PRIVATE KEY-----"):
        assert SECRET.search(text)


def test_the_private_key_is_the_gateways_alone() -> None:
    holders = {
        pod.component
        for pod in pods(rendered("production"))
        for volume in pod.spec["volumes"]
        if "identity.pem" in json.dumps(volume)
    }
    assert holders == {"gateway"}


def test_one_replica_renders_no_disruption_budget_and_two_do() -> None:
    assert budgets(rendered("cpu")) == set()
    stores = {"database": {"existingSecret": "d"}, "redis": {"existingSecret": "r"}}
    two = render(
        profile_values("cpu", stores, {"services": {"gateway": {"replicas": 2}, "embedding": {"replicas": 1}}})
    )
    assert budgets(two) == {"penstock-gateway"}
    found = next(each for each in two if each["kind"] == "PodDisruptionBudget")
    assert found["spec"]["maxUnavailable"] == 1


def budgets(manifests: tuple[Manifest, ...] | list[Manifest]) -> set[str]:
    return {each["metadata"]["name"] for each in manifests if each["kind"] == "PodDisruptionBudget"}


def test_a_changed_catalogue_restarts_inference_and_a_changed_configuration_restarts_nobody() -> None:
    def annotations(values: dict[str, Any]) -> dict[str, Any]:
        return {
            pod.name: pod.template["metadata"].get("annotations") for pod in pods(render(profile_values("cpu", values)))
        }

    before = annotations({})
    models = render(profile_values("cpu"))
    assert models
    catalogue = [{"name": "m", "task": "embed", "triton": {"server": "cpu", "model": "minilm-l6"}}]
    changed = annotations({"catalogue": {"models": catalogue}, "configuration": {"routes": {}}})
    assert {name for name in before if before[name] != changed[name]} == {"penstock-inference"}
    assert before == annotations({"configuration": {"ledger": {"retention_days": 7}}})


def test_only_endpoint_slices_may_be_read_in_the_cluster() -> None:
    roles = [each for each in rendered("production") if each["kind"] in {"Role", "ClusterRole"}]
    assert [(each["kind"], each["rules"]) for each in roles] == [
        (
            "Role",
            [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}],
        )
    ]
