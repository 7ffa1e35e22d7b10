"""Values that are wrong are refused before anything is installed, and the message names what to change."""

from typing import Any

import pytest
from helm_python import HelmError

from deploy.rendering.chart import profile_values, render
from deploy.tests.profiles import CPU, GPU, LLM, SCALED, with_llm

UNKNOWN = [
    ({"gatway": {}}, "gatway"),
    ({"services": {"gateway": {"replica": 2}}}, "replica"),
    ({"services": {"gatewy": {}}}, "gatewy"),
    ({"services": {"gateway": {"environment": {"GATEWAY_DEFAULT_TIMEOT_S": 5}}}}, "GATEWAY_DEFAULT_TIMEOT_S"),
    ({"services": {"embedding": {"environment": {"GATEWAY_DRAIN_S": 5}}}}, "GATEWAY_DRAIN_S"),
    ({"services": {"gateway": {"resources": {"limits": {"gpu": 1}}}}}, "gpu"),
    ({"pools": [CPU | {"modles": []}]}, "modles"),
    ({"pools": [CPU | {"store": {"kind": "pvc"}}]}, "kind"),
    (with_llm(accelerator=GPU | {"cuont": 1}), "cuont"),
    ({"tls": {"certManager": {"isuer": {}}}}, "isuer"),
    ({"networkPolicy": {"client": []}}, "client"),
    ({"catalogue": {"models": [{"name": "m", "task": "embed", "tritn": {}}]}}, "tritn"),
    ({"configuration": {"routs": {}}}, "routs"),
    ({"configuration": {"routes": {"a": {"candidates": ["m"], "timout_s": 3}}}}, "timout_s"),
    ({"image": {"tags": "1"}}, "tags"),
]
WRONG = [
    (
        {"identity": {"existingSecret": ""}},
        "identity.existingSecret: name a secret with identity.pem and identity.pub.pem",
    ),
    ({"tls": {"enabled": True}}, "tls: name an existingSecret"),
    (with_llm(accelerator=GPU | {"count": 0}), r'pools[1] "llm": a GPU pool without GPUs: accelerator.count is 0'),
    (with_llm(engine="bundled"), "the bundled Triton has no GPU backends"),
    (with_llm(image={}), "engine: triton needs image.repository"),
    (with_llm(store={"type": "image"}), "the official image holds no models"),
    (
        with_llm(accelerator=GPU | {"sharing": "mig"}),
        "sharing: mig goes with a resource such as nvidia.com/mig-1g.10gb",
    ),
    (with_llm(accelerator=GPU | {"resource": "nvidia.com/mig-1g.10gb"}), "goes with sharing: mig"),
    (with_llm(accelerator=GPU | {"sharing": "timeSlicing", "count": 2}), "count has to be 1"),
    (with_llm(store={"type": "hostPath", "path": "/m"}), "restricted pod security allows no hostPath"),
    (with_llm(store={"type": "s3", "image": "r/r:1"}), "needs store.uri"),
    (with_llm(store={"type": "oci"}), "needs store.reference"),
    (with_llm(sharedMemory="4Gi"), "sharedMemory 4Gi counts towards the memory limit, which is 3Gi: too little memory"),
    (with_llm(residency={"budget_bytes": 10**9}), "with residency the pool loads models itself"),
    ({"pools": [CPU, CPU]}, "another pool has the name"),
    ({"pools": [CPU | {"name": "other"}]}, 'there is no pool "cpu"; there are: other'),
    (
        {"services": {"vector-search": {"replicas": 2}}},
        "services.vector-search: 2 replicas asked for, but it owns its files",
    ),
    ({"services": {"gateway": {"replicas": 2}}}, "services.gateway: 2 replicas need a shared database"),
    ({"services": {"gateway": {"replicas": 2}}, "database": {"existingSecret": "d"}}, "2 replicas need a shared redis"),
    (
        {"services": {"inference": {"autoscaling": {"maxReplicas": 3}}}},
        "services.inference: 3 replicas need a shared database",
    ),
    (
        {"services": {"embedding": {"autoscaling": {"minReplicas": 5, "maxReplicas": 3}}}},
        "minReplicas is above maxReplicas",
    ),
    ({"scaling": {"engine": "keda"}}, "scaling.prometheusAddress"),
    ({"scaling": {"engine": "hpa"}, "pools": [CPU | {"autoscaling": SCALED}]}, "an HPA cannot go to 0 replicas"),
    (
        {"pools": [CPU, LLM | {"autoscaling": SCALED}], "scaling": {"engine": "keda", "prometheusAddress": "http://p"}},
        "nothing could scale it",
    ),
    ({"route": {"kind": "ingress"}}, "route.hostnames"),
    ({"route": {"kind": "gateway", "hostnames": ["a.b"]}}, "route.parents"),
    (
        {"catalogue": {"models": [{"name": "m", "task": "generate", "openai": {"upstream": "u", "model": "x"}}]}},
        'there is no upstream "u"',
    ),
    (
        {"catalogue": {"upstreams": {"u": {"base_url": "https://h/v1", "api_key_env": "U_KEY"}}}},
        "the secret is missing: services.inference.secretEnvironment has no variable U_KEY",
    ),
    (
        {"catalogue": {"upstreams": {"u": {"base_url": "https://h/v1", "api_key_file": "/key"}}}},
        "api_key_file is not mounted",
    ),
    (
        with_llm(models=[], residency={"budget_bytes": 10**9, "footprints": "f.json"}),
        "files of inference's own machine",
    ),
    (
        {
            "catalogue": {
                "models": [{"name": "m", "task": "embed", "triton": {"server": "cpu", "model": "m", "golden": "g"}}]
            }
        },
        "put golden.json into the model's folder",
    ),
]
REFUSED = [
    ({"image": {"tag": "latest"}}, "/image/tag"),
    (with_llm(image={"repository": "r/t", "tag": "latest"}), "/pools/1/image/tag"),
    (with_llm(store={"type": "oci", "reference": "r/m:latest"}), "reference"),
    ({"services": {"gateway": {"replicas": 0}}}, "/services/gateway/replicas"),
    ({"services": {"gateway": {"resources": {"limits": {"memory": "lots"}}}}}, "memory"),
    ({"image": {"digests": {"gateway": "sha256:short"}}}, "gateway"),
    ({"pools": []}, "/pools"),
    ({"telemetry": {"traceRatio": 2}}, "traceRatio"),
    ({"catalogue": {"models": []}}, "models"),
    ({"catalogue": {"models": [{"name": "m", "task": "dance", "triton": {"server": "cpu", "model": "m"}}]}}, "task"),
    ({"podSecurity": {"user": 0}}, "/podSecurity/user"),
]


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(HelmError) as caught:
        render(profile_values("cpu", values))
    return str(caught.value)


@pytest.mark.parametrize(("values", "key"), UNKNOWN, ids=[key for _, key in UNKNOWN])
def test_an_unknown_key_fails_and_is_named(values: dict[str, Any], key: str) -> None:
    assert f"'{key}'" in refusal(values)


@pytest.mark.parametrize(("values", "place"), REFUSED, ids=[place for _, place in REFUSED])
def test_a_value_that_cannot_be_is_refused_at_its_place(values: dict[str, Any], place: str) -> None:
    assert place in refusal(values)


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_values_that_do_not_fit_together_are_told(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


def test_every_mistake_is_told_at_once() -> None:
    told = refusal(
        {
            "identity": {"existingSecret": ""},
            "services": {"vector-search": {"replicas": 3}},
            "route": {"kind": "ingress"},
        }
    )
    assert told.count("\n  - ") == 3
