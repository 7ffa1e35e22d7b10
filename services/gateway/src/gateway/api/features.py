"""/v1/features: what is known about users and items, each value with its age."""

from typing import Annotated, Any

from google.protobuf.timestamp_pb2 import Timestamp
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.gateway.v1 import gateway_pb2 as pb
from pydantic import AwareDatetime, BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import INT64_MAX, INT64_MIN, Body, json_response, read
from gateway.api.calls import Calls
from gateway.api.render import enum_names, time_of

STATUSES = enum_names(features.FeatureStatus, "FEATURE_STATUS_")
TYPES = enum_names(features.ScalarType, "SCALAR_TYPE_")


def _not_whole(value: Any) -> Any:
    if isinstance(value, int):
        raise ValueError("a whole number has to fit in 64 bits")  # noqa: TRY004  pydantic wants it
    return value


Scalar = bool | Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)] | Annotated[float, BeforeValidator(_not_whole)] | str
Keys = Annotated[dict[str, Scalar], Field(min_length=1, max_length=16)]


class ReadRequest(Body):
    """Features to read, for which entities."""

    features: Annotated[list[str], Field(min_length=1, max_length=200, description="`view:feature`")]
    entities: Annotated[list[Keys], Field(min_length=1, max_length=1000, description='such as `{"user_id": 7}`')]


class Row(Body):
    """What became true of one entity, and when."""

    entity: Keys
    values: dict[str, Scalar | None]
    event_time: AwareDatetime


class PushRequest(Body):
    """Rows for one feature view."""

    feature_view: Annotated[str, Field(min_length=1, max_length=128)]
    rows: Annotated[list[Row], Field(min_length=1, max_length=10_000)]


class FeatureRoutes:
    """Feature views, reads and pushes."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def views(self, _: Request) -> Response:
        """List the feature views with their schemas."""
        listed = await self._calls.list_feature_views()
        return json_response({"object": "list", "data": [_view_json(view) for view in listed.feature_views]})

    async def read(self, request: Request) -> Response:
        """Read features of entities, in the order asked."""
        asked = await read(request, ReadRequest)
        entities = [_entity(keys) for keys in asked.entities]
        found = await self._calls.get_features(pb.GetFeaturesRequest(features=asked.features, entities=entities))
        return json_response({"object": "list", "data": [_row_json(each) for each in found.entities]})

    async def push(self, request: Request) -> Response:
        """Write rows; each is accepted or rejected on its own, and a late one never replaces a newer one."""
        asked = await read(request, PushRequest)
        rows = [_row(row) for row in asked.rows]
        pushed = await self._calls.push_features(pb.PushFeaturesRequest(feature_view=asked.feature_view, rows=rows))
        rejected = [{"index": row.index, "reason": row.reason, "message": row.message} for row in pushed.rejected]
        return json_response({"object": "feature_push", "accepted": pushed.accepted, "rejected": rejected})


def _scalar(value: Any) -> features.Scalar:
    if value is None:
        return features.Scalar()
    if isinstance(value, bool):
        return features.Scalar(bool_value=value)
    if isinstance(value, int):
        return features.Scalar(int_value=value)
    if isinstance(value, float):
        return features.Scalar(double_value=value)
    return features.Scalar(string_value=value)


def _plain(scalar: features.Scalar) -> Any:
    kind = scalar.WhichOneof("kind")
    return getattr(scalar, kind) if kind else None


def _entity(keys: dict[str, Any]) -> features.Entity:
    return features.Entity(keys={name: _scalar(value) for name, value in keys.items()})


def _row(row: Row) -> features.FeatureRow:
    moment = Timestamp()
    moment.FromDatetime(row.event_time)
    values = {name: _scalar(value) for name, value in row.values.items()}
    return features.FeatureRow(entity=_entity(row.entity), values=values, event_time=moment)


def _view_json(view: features.FeatureView) -> dict[str, Any]:
    return {
        "object": "feature_view",
        "name": view.name,
        "description": view.description,
        "entity_keys": [{"name": key.name, "type": TYPES[key.type]} for key in view.entity_keys],
        "features": [{"name": each.name, "type": TYPES[each.type]} for each in view.features],
        "ttl_s": view.ttl.seconds + view.ttl.nanos / 1e9,
    }


def _row_json(row: features.EntityFeatures) -> dict[str, Any]:
    return {
        "entity": {name: _plain(value) for name, value in row.entity.keys.items()},
        "values": [_value_json(value) for value in row.values],
    }


def _value_json(value: features.FeatureValue) -> dict[str, Any]:
    age_s = value.age.seconds + value.age.nanos / 1e9 if value.HasField("age") else None
    return {
        "name": value.name,
        "status": STATUSES[value.status],
        "value": _plain(value.value),
        "event_time": time_of(value.event_time),
        "age_s": age_s,
    }
