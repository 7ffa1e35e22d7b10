"""What the catalogue may say of models that are loaded on request."""

from pathlib import Path

import pytest
from inference.adapters.catalogue_file import CatalogueError, CatalogueFile, read_catalogue
from inference.core.policy import Patience, Policy

CATALOGUE = """
servers:
  gpu: {{address: "10.0.0.1:8001", residency: {{budget_bytes: 1073741824{more}}}}}
  cpu: {{address: "10.0.0.2:8001"}}
models:
  - {{name: encoder, task: embed, triton: {{server: gpu, model: enc}}}}
  - {{name: ranker, task: tensor, triton: {{server: gpu, model: rank}}}}
  - {{name: other, task: tensor, triton: {{server: cpu, model: elsewhere}}}}
"""


def read(folder: Path, more: str) -> CatalogueFile:
    path = folder / "catalogue.yaml"
    path.write_text(CATALOGUE.format(more=more), "utf-8")
    return read_catalogue(path)


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    catalogue = read(tmp_path, "")
    residency = catalogue.servers["gpu"].residency
    assert residency is not None
    assert residency.managed
    assert residency.policy(catalogue.models_of("gpu")) == Policy(frozenset({"enc", "rank"}), 1 << 30, 1 << 28)
    assert residency.assumed() == 1 << 27
    assert catalogue.servers["cpu"].residency is None


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    more = """, pinned: [enc], warm: [rank], minimum_s: 1, spread_at: 9, load_timeout_s: 2, unload_timeout_s: 3,
        free_timeout_s: 4, assumed_bytes: 5, leak_limit_bytes: 6, repository: models, footprints: f.json,
        metrics_port: 8002, managed: false"""
    residency = read(tmp_path, more).servers["gpu"].residency
    assert residency is not None
    assert not residency.managed
    assert (residency.metrics_port, residency.repository, residency.footprints) == (
        8002,
        Path("models"),
        Path("f.json"),
    )
    assert residency.assumed() == 5
    assert residency.policy(()) == Policy(
        frozenset(), 1 << 30, 6, ("rank",), ("enc",), minimum_s=1.0, spread_at=9, patience=Patience(2.0, 3.0, 4.0)
    )


WRONG = [
    (", pinned: [encoder]", "servers.gpu.residency: no model of the server is named 'encoder'"),
    (", warm: [elsewhere]", "servers.gpu.residency: no model of the server is named 'elsewhere'"),
    (", pinned: [enc], warm: [enc]", "servers.gpu.residency: a model stands twice in pinned and warm"),
    (", budget: 3", "servers.gpu.residency.budget: Extra inputs are not permitted"),
    (", minimum_s: -1", "servers.gpu.residency.minimum_s: Input should be greater than or equal to 0"),
    (", spread_at: 0", "servers.gpu.residency.spread_at: Input should be greater than or equal to 1"),
    (", metrics_port: 70000", "servers.gpu.residency.metrics_port: Input should be less than or equal to 65535"),
]


@pytest.mark.parametrize(("more", "told"), WRONG)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        read(tmp_path, more)
    assert told in str(caught.value)


def test_a_budget_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_text(CATALOGUE.format(more="").replace("budget_bytes: 1073741824", ""), "utf-8")
    with pytest.raises(CatalogueError, match=r"servers\.gpu\.residency\.budget_bytes: Field required"):
        read_catalogue(path)
