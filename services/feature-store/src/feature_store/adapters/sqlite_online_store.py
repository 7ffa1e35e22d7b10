"""Feast's view of our online values: the plugin named in feature_store.yaml, for the feast command and its SDK."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from feast.value_type import ValueType

from feature_store.adapters.sqlite_values import ValueFile
from feature_store.core.catalogue import Scalar
from feature_store.core.ports import EntityKey, StoredRow, StoredValue, ViewQuery

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_VALUE_FIELD = {
    ValueType.BOOL: "bool_val",
    ValueType.INT64: "int64_val",
    ValueType.DOUBLE: "double_val",
    ValueType.STRING: "string_val",
}
Quadruple = tuple[EntityKeyProto, dict[str, Value], datetime, datetime | None]


class SqliteOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]  # Feast has no types here
    """The `online_store` section of feature_store.yaml. A relative path starts at the repository."""

    type: Literal["feature_store.adapters.sqlite_online_store.SqliteOnlineStore"]
    path: str
    tenant: str
    """Whose rows Feast itself reads and writes; Feast knows no tenants."""


class SqliteOnlineStore(OnlineStore):  # type: ignore[misc]  # Feast has no types here
    """Feast's online store on the service's own file, with the service's own rule about late events."""

    _file: ValueFile | None = None

    def _open(self, config: RepoConfig) -> ValueFile:
        if self._file is None:
            self._file = ValueFile(Path(config.repo_path or "") / config.online_store.path)
        return self._file

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Quadruple],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write a batch; values older than what is stored are dropped."""
        rows = [
            StoredRow(_key(key), {name: _scalar(value) for name, value in values.items()}, _micros(event_time))
            for key, values, event_time, _ in data
        ]
        self._open(config).write(config.online_store.tenant, table.name, rows)
        if progress is not None:
            progress(len(rows))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read values; Feast has one time per row, so it gets that of the oldest value."""
        fields = {field.name: _VALUE_FIELD[field.dtype.to_value_type()] for field in table.features}
        asked = tuple(requested_features or fields)
        query = ViewQuery(table.name, asked, [_key(key) for key in entity_keys])
        return [
            (
                _EPOCH + timedelta(microseconds=min(event_us for _, event_us in row.values())),
                {name: _value(row.get(name), fields[name]) for name in asked},
            )
            if row
            else (None, None)
            for row in self._open(config).read(config.online_store.tenant, query)
        ]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],  # noqa: ARG002  one table serves every view
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Forget the views that are no longer defined."""
        file = self._open(config)
        for table in tables_to_delete:
            file.forget_view(table.name)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        """Forget all views given."""
        file = self._open(config)
        for table in tables:
            file.forget_view(table.name)


def _key(proto: EntityKeyProto) -> EntityKey:
    pairs = sorted(zip(proto.join_keys, proto.entity_values, strict=True), key=lambda pair: pair[0])
    return tuple([getattr(value, value.WhichOneof("val")) for _, value in pairs])


def _scalar(value: Value) -> Scalar | None:
    kind = value.WhichOneof("val")
    if kind is not None and kind not in _VALUE_FIELD.values():
        raise ValueError(f"values of kind {kind} are not served")
    return None if kind is None else getattr(value, kind)


def _value(stored: StoredValue | None, field: str) -> Value:
    message = Value()
    if stored is not None and stored[0] is not None:
        setattr(message, field, bool(stored[0]) if field == "bool_val" else stored[0])
    return message


def _micros(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND
