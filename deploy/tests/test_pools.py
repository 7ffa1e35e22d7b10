"""GPU pools: their pods fit GPU nodes, roll without a spare GPU, and scale on what the pool measures."""

import shutil
from typing import Any

import pytest
from inference.adapters.catalogue_file import read_catalogue

from deploy.rendering.chart import CHART, notes, profile_values, render
from deploy.tests.cluster import Node, Pod, Unplaced, place, pods, quantity
from deploy.tests.profiles import GPU, LLM, rendered, with_llm

CPU_NODE = {"cpu": 3_900, "memory": quantity("14Gi")}
GPU_NODE = {"cpu": 15_000, "memory": quantity("60Gi"), "nvidia.com/gpu": 1000}


def nodes(cpus: int, gpus: int, taint: str = "nvidia.com/gpu") -> list[Node]:
    plain = [Node(f"cpu-{number}", dict(CPU_NODE)) for number in range(cpus)]
    labels = {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    with_gpu = [Node(f"gpu-{number}", dict(GPU_NODE), dict(labels), [(taint, "NoSchedule")]) for number in range(gpus)]
    return plain + with_gpu


def pool(name: str, values: dict[str, Any]) -> Pod:
    return next(each for each in pods(render(profile_values("cpu", values))) if each.component == f"pool-{name}")


def test_the_gpu_profile_fits_three_cpu_nodes_and_two_gpu_nodes() -> None:
    placed = place(pods(rendered("gpu")), nodes(3, 2))
    assert sorted(placed["penstock-pool-llm"]) == ["gpu-0", "gpu-1"]
    assert len(set(placed["penstock-pool-cpu"])) == 2
    others = [node for name, found in placed.items() if name != "penstock-pool-llm" for node in found]
    assert all(node.startswith("cpu-") for node in others)


def test_it_does_not_fit_fewer() -> None:
    with pytest.raises(Unplaced, match=r"penstock-pool-llm: .*lacks.*nvidia\.com/gpu"):
        place(pods(rendered("gpu")), nodes(3, 1))
    with pytest.raises(Unplaced, match=r"has the taint nvidia\.com/gpu"):
        place(pods(rendered("gpu")), nodes(0, 2))
    with pytest.raises(Unplaced, match=r"has the taint example\.com/other"):
        place(pods(rendered("gpu")), nodes(3, 2, taint="example.com/other"))


def test_the_cpu_profile_fits_one_laptop() -> None:
    assert place(pods(rendered("cpu")), [Node("laptop", {"cpu": 4_000, "memory": quantity("8Gi")})])


def test_a_pod_of_a_pool_of_named_products_stays_away_from_others() -> None:
    picky = pool("llm", with_llm(accelerator=GPU | {"products": ["NVIDIA-H100-80GB-HBM3"]}))
    with pytest.raises(Unplaced, match="does not fit the affinity"):
        place([picky], nodes(0, 2))


def test_gpus_are_asked_for_in_limits_and_requests_alike_and_only_by_the_server() -> None:
    for pod in pods(rendered("production")):
        for container in pod.containers():
            resources = container["resources"]
            asked = [
                {key: value for key, value in resources[kind].items() if "/" in key} for kind in ("requests", "limits")
            ]
            expected = {"pool-llm": {"nvidia.com/gpu": 1}, "pool-small": {"nvidia.com/mig-1g.10gb": 1}}.get(
                pod.component, {}
            )
            assert asked == [expected if container["name"] == "triton" else {}] * 2, (pod.name, container["name"])


def test_a_rollout_never_waits_for_a_second_gpu() -> None:
    for each in rendered("production"):
        if each["kind"] == "Deployment" and "pool" in each["metadata"]["name"]:
            assert each["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
            wait_s = each["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
            assert each["spec"]["progressDeadlineSeconds"] > wait_s["periodSeconds"] * wait_s["failureThreshold"]


@pytest.mark.parametrize("seconds", [10, 300, 1205, 7200])
def test_the_startup_probe_waits_as_long_as_the_models_may_take(seconds: int) -> None:
    probe = pool("llm", with_llm(startupSeconds=seconds)).spec["containers"][0]["startupProbe"]
    assert seconds <= probe["periodSeconds"] * probe["failureThreshold"] < seconds + 10


def test_shared_memory_is_bounded_and_in_memory() -> None:
    volumes = {each["name"]: each for each in pool("llm", with_llm(sharedMemory="2Gi")).spec["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}


def test_spot_nodes_are_tolerated_when_asked_for() -> None:
    def keys(**changes: Any) -> set[str]:
        return {each["key"] for each in pool("llm", with_llm(**changes)).spec["tolerations"]}

    assert keys() == {"nvidia.com/gpu"}
    assert {"cloud.google.com/gke-spot", "karpenter.sh/capacity-type"} < keys(spot=True)


def test_the_server_loads_the_models_that_the_pool_names_and_its_readiness_asks_all_of_them() -> None:
    container = pool("llm", with_llm(models=["a", "b"])).spec["containers"][0]
    assert container["command"][0] == "tritonserver"
    assert {"--load-model=a", "--load-model=b", "--model-control-mode=explicit", "--strict-readiness=true"} <= set(
        container["command"]
    )
    assert container["readinessProbe"]["exec"]["command"][-2:] == ["a", "b"]
    bundled = pool("cpu", {}).spec["containers"][0]
    assert "command" not in bundled, "the image begins with an init process"
    assert bundled["args"][:3] == ["-m", "model_repository", "serve"]
    assert bundled["args"][bundled["args"].index("--address") + 1] == "0.0.0.0"
    assert bundled["args"][-4:] == ["--load", "minilm-l6", "extractive-reader", "passage-ranker"]


def test_models_are_looked_for_before_the_server_starts_wherever_they_may_be_missing() -> None:
    def before(store: dict[str, Any]) -> list[str]:
        more = {"podSecurity": {"level": "privileged"}}
        return [each["name"] for each in pool("llm", with_llm(store=store) | more).spec.get("initContainers", ())]

    assert before({"type": "pvc", "claim": "m"}) == ["check-models"]
    assert before({"type": "hostPath", "path": "/m"}) == ["check-models"]
    assert before({"type": "oci", "reference": "r/m:1"}) == ["check-models"]
    assert before({"type": "s3", "uri": "s3://b", "image": "r/r:1", "size": "1Gi"}) == ["fetch-models", "check-models"]
    assert pool("cpu", {}).spec.get("initContainers") is None


def test_the_catalogue_is_one_that_the_pool_reads(tmp_path) -> None:
    for name in ("cpu", "gpu", "production", "hosted models", "loaded on request"):
        found = next(each for each in rendered(name) if each["metadata"]["name"] == "penstock-catalogue")
        file = tmp_path / "catalogue.yaml"
        file.write_text(found["data"]["catalogue.yaml"])
        catalogue = read_catalogue(file)
        services = {each["metadata"]["name"] for each in rendered(name) if each["kind"] == "Service"}
        assert {server.kubernetes.service for server in catalogue.servers.values() if server.kubernetes} <= services


def test_a_scaled_pool_follows_the_waits_of_its_own_models() -> None:
    scaled = {
        each["metadata"]["name"]: each["spec"] for each in rendered("production") if each["kind"] == "ScaledObject"
    }
    assert set(scaled) == {"penstock-pool-cpu", "penstock-pool-llm"}
    llm = scaled["penstock-pool-llm"]
    queries = {each["name"]: each["metadata"]["query"] for each in llm["triggers"]}
    assert set(queries) == {"desired-replicas", "queue-wait", "arrivals"}
    assert all('model=~"chat"' in query for query in queries.values())
    assert "penstock_inference_queue_wait_p95_seconds" in queries["queue-wait"]
    assert all("activationThreshold" in each["metadata"] for each in llm["triggers"])
    assert llm["fallback"] == {"failureThreshold": 3, "replicas": 4, "behavior": "currentReplicasIfHigher"}
    assert llm["cooldownPeriod"] >= 1800 + 60
    for each in rendered("production"):
        if each["kind"] == "Deployment" and each["metadata"]["name"] in scaled:
            assert "replicas" not in each["spec"]
    assert (
        'model=~"minilm-l6|extractive-reader|passage-ranker"'
        in scaled["penstock-pool-cpu"]["triggers"][0]["metadata"]["query"]
    )


def test_an_hpa_is_the_other_way() -> None:
    scaled = {
        each["metadata"]["name"]: each["spec"]
        for each in rendered("scaled by an HPA")
        if each["kind"] == "HorizontalPodAutoscaler"
    }
    metrics = scaled["penstock-pool-llm"]["metrics"]
    assert [each["external"]["metric"]["name"] for each in metrics] == ["penstock_inference_desired_replicas"]
    assert not [each for each in rendered("scaled by an HPA") if each["kind"] == "ScaledObject"]


def test_an_upgrade_of_the_chart_alone_does_not_load_large_models_anew(tmp_path) -> None:
    newer = tmp_path / "penstock"
    shutil.copytree(CHART, newer)
    described = newer / "Chart.yaml"
    described.write_text(described.read_text().replace("0.1.0", "0.2.0"))
    before = {pod.component: pod.template for pod in pods(rendered("gpu"))}
    after = {pod.component: pod.template for pod in pods(render(profile_values("gpu"), chart=newer))}
    changed = {name for name in before if before[name] != after[name]}
    assert "pool-llm" not in changed
    assert "gateway" in changed


def test_the_notes_count_the_gpus_and_tell_three_commands() -> None:
    text = notes(
        profile_values(
            "gpu",
            {
                "pools": [LLM | {"replicas": 3, "accelerator": GPU | {"count": 2}}],
                "catalogue": {
                    "models": [{"name": "chat", "task": "generate", "triton": {"server": "llm", "model": "chat"}}]
                },
            },
        )
    )
    assert "nvidia.com/gpu 6" in text
    assert text.count("kubectl -n penstock") == 3
    assert "GPUs asked for: none" in notes(profile_values("cpu"))
