"""The compose file's profiles beyond the default: images pinned, GPUs asked for, a catalogue that the pool takes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from inference.adapters.catalogue_file import read_catalogue

from deploy.rendering.chart import DEPLOY

COMPOSE = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
PROFILES = {profile for each in SERVICES.values() for profile in each.get("profiles", ())}
GPU = DEPLOY / "compose/gpu"


def settings(profile: str) -> dict[str, str]:
    """Return the variables of a profile's file."""
    lines = (DEPLOY / f"compose/{profile}.env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("profile", sorted(PROFILES - {"tools"}))
def test_every_profile_has_a_file_that_turns_it_on(profile: str) -> None:
    assert settings(profile)["COMPOSE_PROFILES"] == profile


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_and_can_be_replaced(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image.startswith("${PENSTOCK_")
    version = image.rpartition(":")[2].rstrip("}")
    assert any(digit.isdigit() for digit in version), image
    assert "latest" not in image


def test_what_the_pool_of_gpus_runs_has_a_gpu_each() -> None:
    for name in ("triton-gpu", "vllm"):
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        assert SERVICES[name]["networks"] == ["pool"]


def test_the_catalogue_of_the_gpus_names_containers_of_the_file() -> None:
    catalogue = read_catalogue(GPU / "catalogue.yaml")
    hosts = {server.address.split(":")[0] for server in catalogue.servers.values() if server.address}
    assert hosts == {"triton", "triton-gpu"}
    (upstream,) = catalogue.upstreams.values()
    assert str(upstream.base_url) == "http://vllm:8000/v1"
    assert "--served-model-name=chat" in SERVICES["vllm"]["command"]
    assert "--load-model=minilm-l6" in SERVICES["triton-gpu"]["command"]
    routes = yaml.safe_load((GPU / "gateway.yaml").read_text("utf-8"))["routes"]
    asked = {name for route in routes.values() for name in route["candidates"]}
    assert asked <= {model.name for model in catalogue.models}
    for place in ("PENSTOCK_CATALOGUE", "PENSTOCK_CONFIGURATION"):
        assert (DEPLOY.parent / settings("gpu")[place]).resolve() == GPU


def test_the_milvus_of_the_file_is_where_vector_search_is_told() -> None:
    assert settings("milvus")["PENSTOCK_MILVUS_URL"] == "http://milvus:19530"
    assert set(SERVICES["milvus"]["networks"]) <= set(SERVICES["vector-search"]["networks"])


def test_every_path_of_this_machine_is_in_the_checkout() -> None:
    for name, each in SERVICES.items():
        for volume in each.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY.parent / Path(source)).exists(), (name, source)
