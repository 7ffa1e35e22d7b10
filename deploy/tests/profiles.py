"""The sets of values that the chart is tested with: its profiles, and a matrix of what may be chosen beside them."""

from functools import cache
from typing import Any

from deploy.rendering.chart import Manifest, profile_values, render

GPU = {"resource": "nvidia.com/gpu", "count": 1, "products": [], "sharing": "none"}
LLM = {
    "name": "llm",
    "engine": "triton",
    "image": {"repository": "nvcr.io/nvidia/tritonserver", "tag": "26.07-vllm-python-py3"},
    "accelerator": GPU,
    "models": ["chat"],
    "store": {"type": "pvc", "claim": "models"},
}
CPU = {"name": "cpu", "models": ["minilm-l6", "extractive-reader", "passage-ranker"]}
SCALED = {"minReplicas": 0, "maxReplicas": 4, "queueWaitSeconds": 0.5, "cooldownSeconds": 300, "fallbackReplicas": 1}
TLS = {"enabled": True, "existingSecret": "penstock-tls"}


def with_llm(**changes: Any) -> dict[str, Any]:
    """Return the values of a second pool beside the CPUs'."""
    return {"pools": [CPU, LLM | changes]}


MATRIX: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu": ("cpu", {}),
    "gpu": ("gpu", {}),
    "production": ("production", {}),
    "given certificates": ("cpu", {"tls": TLS}),
    "scaled by an HPA": ("production", {"scaling": {"engine": "hpa"}}),
    "scaled from nothing": (
        "cpu",
        {"scaling": {"engine": "keda", "prometheusAddress": "http://p:9090"}, "pools": [CPU | {"autoscaling": SCALED}]},
    ),
    "ingress": ("production", {"route": {"kind": "ingress", "className": "nginx", "tlsSecret": "edge"}}),
    "gRPC route": (
        "cpu",
        {"route": {"kind": "gateway", "grpc": True, "hostnames": ["a.example.com"], "parents": [{"name": "g"}]}},
    ),
    "no network policies": ("cpu", {"networkPolicy": {"enabled": False}}),
    "models in an image": ("cpu", with_llm(store={"type": "oci", "reference": "ghcr.io/penstock/models:1"})),
    "models of a host": (
        "cpu",
        with_llm(store={"type": "hostPath", "path": "/models"}) | {"podSecurity": {"level": "privileged"}},
    ),
    "models of a bucket, shared": (
        "cpu",
        with_llm(store={"type": "s3", "uri": "s3://b/m", "image": "rclone/rclone:1.71.1", "claim": "models"}),
    ),
    "a claim of its own": ("cpu", with_llm(store={"type": "pvc", "size": "10Gi"})),
    "time slices": ("cpu", with_llm(accelerator=GPU | {"sharing": "timeSlicing"}, spot=True)),
    "MIG": (
        "cpu",
        with_llm(
            accelerator=GPU | {"resource": "nvidia.com/mig-1g.10gb", "sharing": "mig", "products": ["NVIDIA-H100"]}
        ),
    ),
    "loaded on request": ("cpu", with_llm(models=[], residency={"budget_bytes": 10**9})),
    "digests": ("cpu", {"image": {"digests": {"gateway": "sha256:" + "a" * 64}, "pullSecrets": ["registry"]}}),
    "hosted models": (
        "cpu",
        {
            "catalogue": {
                "upstreams": {"cloud": {"base_url": "https://models.example.com/v1", "api_key_env": "CLOUD_KEY"}},
                "models": [{"name": "big", "task": "generate", "openai": {"upstream": "cloud", "model": "big"}}],
            },
            "services": {
                "inference": {"secretEnvironment": [{"variable": "CLOUD_KEY", "secret": "cloud", "key": "key"}]}
            },
        },
    ),
}


@cache
def rendered(name: str) -> tuple[Manifest, ...]:
    """Return the objects of a row of the matrix; whoever changes one has to copy it."""
    profile, more = MATRIX[name]
    return tuple(render(profile_values(profile, more)))
