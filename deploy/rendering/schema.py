"""Writes the schema of the chart's values, with what the services' own code says of their part of it."""

import json
from collections.abc import Mapping
from typing import Any

import yaml
from embedding.settings import Settings as EmbeddingSettings
from feature_store.settings import Settings as FeatureStoreSettings
from gateway.adapters.config_file import ConfigFile
from gateway.settings import Settings as GatewaySettings
from inference.adapters.catalogue_file import ModelEntry, UpstreamEntry
from inference.adapters.residency_entry import ResidencyEntry
from inference.settings import Settings as InferenceSettings
from orchestrator.settings import Settings as OrchestratorSettings
from pydantic import BaseModel
from servicekit.settings import ServiceSettings
from vector_search.settings import Settings as VectorSearchSettings

from deploy.rendering.chart import DEPLOY

SOURCE = DEPLOY / "helm" / "values.schema.yaml"
SETTINGS: Mapping[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "orchestrator": OrchestratorSettings,
    "embedding": EmbeddingSettings,
    "inference": InferenceSettings,
    "vector_search": VectorSearchSettings,
    "feature_store": FeatureStoreSettings,
}
NONE = {"type": "null"}
REMARKS = ("title", "description", "default", "format")


def values_schema() -> str:
    """Return values.schema.json."""
    source = yaml.safe_load(SOURCE.read_text("utf-8"))
    definitions = source["$defs"]
    parts = {
        "models": {"type": "array", "minItems": 1, "items": _entry(ModelEntry, definitions)},
        "upstreams": {"type": "object", "additionalProperties": _entry(UpstreamEntry, definitions)},
        "residency": {"anyOf": [_entry(ResidencyEntry, definitions), NONE]},
        "configuration": _entry(ConfigFile, definitions),
    }
    parts |= {f"settings {name}": _variables(name, settings) for name, settings in SETTINGS.items()}
    return json.dumps(_put_in(source, parts), indent=1, sort_keys=True) + "\n"


def _entry(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an entry of a file that a service reads; what it refers to is added to the definitions."""
    schema = _readable(model.model_json_schema(ref_template="#/$defs/{model}"))
    definitions |= schema.pop("$defs", {})
    return dict(schema)


def _variables(package: str, settings: type[ServiceSettings]) -> dict[str, Any]:
    names = [f"{package}_{field}".upper() for field in settings.model_fields]
    libraries = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    value = {"type": ["string", "number", "boolean"]}
    return {"type": "object", "additionalProperties": False, "properties": dict.fromkeys([*names, *libraries], value)}


def _readable(schema: Any) -> Any:
    """Return the schema without patterns that look ahead, which Helm's engine cannot compile, and without texts."""
    if isinstance(schema, list):
        return [_readable(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not (key in REMARKS and isinstance(value, str))}
    if "(?" in str(kept.get("pattern", "")):
        del kept["pattern"]
    return {key: _readable(value) for key, value in kept.items()}


def _put_in(node: Any, parts: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_put_in(each, parts) for each in node]
    if not isinstance(node, dict):
        return node
    if set(node) == {"from"}:
        return parts[node["from"]]
    return {key: _put_in(value, parts) for key, value in node.items()}
