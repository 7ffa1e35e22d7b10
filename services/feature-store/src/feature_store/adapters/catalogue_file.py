"""The file in which the process that runs Feast leaves the definitions for the process that serves."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_store.core.catalogue import Catalogue, FeatureView, ScalarType

FORMAT = 1
ONLINE_FILE = "online.db"
REGISTRY_FILE = "registry.db"
CATALOGUE_FILE = "catalogue.json"


@dataclass(frozen=True, slots=True)
class Sources:
    """Digests of what a catalogue was made from: the repository's files and the Feast registry."""

    repository: str
    registry: str


def digest_of_repository(repository: Path) -> str:
    """Return the digest of the definitions, the configuration and the samples."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for pattern in ("*.py", "feature_store.yaml", "sample/*.csv"):
        for file in sorted(repository.glob(pattern)):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def digest_of_registry(state: Path) -> str:
    """Return the digest of the registry, or an empty string when there is none."""
    file = state / REGISTRY_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def write(state: Path, sources: Sources, views: list[FeatureView]) -> None:
    """Replace the catalogue file, in one step."""
    content = {
        "format": FORMAT,
        "repository": sources.repository,
        "registry": sources.registry,
        "views": [_to_json(view) for view in sorted(views, key=lambda view: view.name)],
    }
    draft = state / f"{CATALOGUE_FILE}.new"
    draft.write_text(json.dumps(content, indent=1))
    draft.replace(state / CATALOGUE_FILE)


def read(state: Path) -> tuple[Sources, Catalogue] | None:
    """Return the catalogue and its sources, or None when there is no whole file of this format."""
    try:
        content = json.loads((state / CATALOGUE_FILE).read_bytes())
    except (FileNotFoundError, ValueError):  # a machine that lost power may leave half a file
        return None
    if content.get("format") != FORMAT:
        return None
    generation = hashlib.sha256(json.dumps(content["views"]).encode()).hexdigest()
    views = [_from_json(view) for view in content["views"]]
    catalogue = Catalogue(generation, {view.name: view for view in views})
    return Sources(content["repository"], content["registry"]), catalogue


def _to_json(view: FeatureView) -> dict[str, Any]:
    return {
        "name": view.name,
        "description": view.description,
        "entity_keys": {name: kind.value for name, kind in view.entity_keys.items()},
        "features": {name: kind.value for name, kind in view.features.items()},
        "ttl_us": view.ttl_us,
    }


def _from_json(content: dict[str, Any]) -> FeatureView:
    return FeatureView(
        content["name"],
        content["description"],
        {name: ScalarType(kind) for name, kind in content["entity_keys"].items()},
        {name: ScalarType(kind) for name, kind in content["features"].items()},
        content["ttl_us"],
    )
