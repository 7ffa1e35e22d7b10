"""The cpu repository, built once for all tests, and small cards for tests of the builder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from model_repository.repository import build_repository

MODELS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def minilm_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with minilm-l6 alone, so that these tests do not depend on the other models."""
    models = tmp_path_factory.mktemp("cards")
    (models / "minilm-l6").symlink_to(MODELS / "minilm-l6")
    return models


@pytest.fixture(scope="session")
def repository(minilm_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("state") / "repository"
    list(build_repository(minilm_card, "cpu", output))
    return output


@pytest.fixture(scope="session")
def gpu_repository(minilm_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("state") / "repository"
    list(build_repository(minilm_card, "gpu", output))
    return output


@pytest.fixture
def add_card(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a Python model's folder under `tmp_path/models` and returns it."""

    def add(folder_name: str, **changed: object) -> Path:
        folder = tmp_path / "models" / folder_name
        (folder / "triton").mkdir(parents=True)
        (folder / "triton" / "model.py").write_text("# a model\n", "utf-8")
        (folder / "triton" / "config.pbtxt").write_text('backend: "python"\n', "utf-8")
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1]}
        card = {
            "name": folder_name,
            "version": 1,
            "kind": "python",
            "summary": "A test.",
            "licence": "Apache-2.0",
            "source": "here",
        }
        card |= {"inputs": [tensor], "outputs": [tensor]} | changed
        (folder / "model.yaml").write_text(yaml.safe_dump(card), "utf-8")
        return folder

    return add
