"""A process of its own, because Feast is heavy: applies the Feast repository, seeds samples, leaves the catalogue."""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from feast import FeatureStore, RepoConfig
from feast import FeatureView as FeastView
from feast.data_source import PushSource
from feast.repo_operations import apply_total
from feast.value_type import ValueType

from feature_store.adapters import catalogue_file
from feature_store.adapters.catalogue_file import ONLINE_FILE, REGISTRY_FILE, Sources
from feature_store.adapters.sqlite_values import ValueFile
from feature_store.core.catalogue import FeatureView, ScalarType

_TYPES = {
    ValueType.BOOL: ScalarType.BOOL,
    ValueType.INT64: ScalarType.INT,
    ValueType.DOUBLE: ScalarType.DOUBLE,
    ValueType.STRING: ScalarType.STRING,
}
_PANDAS = {
    ScalarType.BOOL: "boolean",
    ScalarType.INT: "Int64",
    ScalarType.DOUBLE: "float64",
    ScalarType.STRING: "string",
}


class UnservedDefinition(ValueError):
    """The repository defines something that the service cannot serve."""


def load_config(repository: Path, state: Path, tenant: str) -> RepoConfig:
    """Return the repository's configuration, its files below `state` and Feast acting for `tenant`."""
    content = yaml.safe_load((repository / "feature_store.yaml").read_text())
    content["registry"] |= {"path": str(state / REGISTRY_FILE)}
    content["online_store"] |= {"path": str(state / ONLINE_FILE), "tenant": tenant}
    config = RepoConfig(**content)
    config.repo_path = repository
    return config


def apply(repository: Path, state: Path, sample_tenant: str) -> None:
    """Apply the definitions, give the sample tenant its rows where it has none, write the catalogue."""
    repository, state = repository.resolve(), state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    repository_digest = catalogue_file.digest_of_repository(repository)
    config = load_config(repository, state, sample_tenant)
    sys.path.insert(0, str(repository))  # where Feast looks for the definitions' modules
    apply_total(config, repository, skip_source_validation=True)
    store = FeatureStore(config=config)
    views = [_served(store, view) for view in store.list_feature_views()]
    if sample_tenant:
        _seed(store, repository / "sample", state, sample_tenant)
    sources = Sources(repository_digest, catalogue_file.digest_of_registry(state))
    catalogue_file.write(state, sources, views)


def _served(store: FeatureStore, view: FeastView) -> FeatureView:
    joins = [store.get_entity(name) for name in view.entities]
    keys = {entity.join_key: _type(view, entity.join_key, entity.value_type) for entity in joins}
    for name, kind in keys.items():
        if kind not in {ScalarType.INT, ScalarType.STRING}:
            raise UnservedDefinition(f"{view.name}: entity key {name} must be Int64 or String")
    features = {field.name: _type(view, field.name, field.dtype.to_value_type()) for field in view.features}
    ttl_us = (view.ttl or timedelta()) // timedelta(microseconds=1)
    return FeatureView(view.name, view.description, keys, features, ttl_us)


def _type(view: FeastView, name: str, found: ValueType) -> ScalarType:
    if found not in _TYPES:
        raise UnservedDefinition(f"{view.name}: {name} is {found.name}; Bool, Int64, Float64 and String are served")
    return _TYPES[found]


def _seed(store: FeatureStore, samples: Path, state: Path, tenant: str) -> None:
    values = ValueFile(state / ONLINE_FILE)
    try:
        for view in store.list_feature_views():
            file = samples / f"{view.name}.csv"
            if isinstance(view.stream_source, PushSource) and file.is_file() and not values.has_rows(tenant, view.name):
                rows = _sample_rows(_served(store, view), file)
                store.push(view.stream_source.name, rows)
                offline = state / "offline" / f"{view.name}.parquet"
                offline.parent.mkdir(exist_ok=True)
                rows.to_parquet(offline)
    finally:
        values.close()


def _sample_rows(view: FeatureView, file: Path) -> Any:
    types = {name: _PANDAS[kind] for name, kind in (*view.entity_keys.items(), *view.features.items())}
    rows = pd.read_csv(file, dtype=types | {"age_h": "float64"})
    now = datetime.now(UTC).replace(microsecond=0)
    rows["event_timestamp"] = [now - timedelta(hours=age_h) for age_h in rows.pop("age_h")]
    return rows


def main() -> None:
    """Run from the command line; the service does, when the repository or the registry changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="folder of feature_store.yaml")
    parser.add_argument("--state", type=Path, required=True, help="folder of registry, online values and catalogue")
    parser.add_argument("--sample-tenant", default="", help="tenant that gets the sample rows; empty: nobody")
    arguments = parser.parse_args()
    apply(arguments.repository, arguments.state, arguments.sample_tenant)


if __name__ == "__main__":
    main()
