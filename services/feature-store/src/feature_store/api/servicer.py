"""The gRPC face of the feature store."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.feature_store.v1 import feature_store_pb2_grpc as pb_grpc
from servicekit import identity
from servicekit.rpc import Service

from feature_store.core.catalogue import FeatureView, Scalar, ScalarType
from feature_store.core.feature_reader import FeatureReader, FeatureValue, Status
from feature_store.core.feature_writer import FeatureWriter, Row
from feature_store.core.ports import CurrentCatalogue

_TYPES = {
    ScalarType.BOOL: pb.SCALAR_TYPE_BOOL,
    ScalarType.INT: pb.SCALAR_TYPE_INT,
    ScalarType.DOUBLE: pb.SCALAR_TYPE_DOUBLE,
    ScalarType.STRING: pb.SCALAR_TYPE_STRING,
}
Context = Any  # grpc.aio.ServicerContext, which is generic in the stubs only
_FIELDS: dict[type, str] = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
_MICROS = 1_000_000
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that a Timestamp may hold
_VALUES_AT_A_TIME = 2_000
_ROWS_AT_A_TIME = 500


class FeatureStoreServicer(pb_grpc.FeatureStoreServiceServicer):
    """Translates messages; every decision is the reader's or the writer's."""

    def __init__(self, catalogue: CurrentCatalogue, reader: FeatureReader, writer: FeatureWriter) -> None:
        self._catalogue = catalogue
        self._reader = reader
        self._writer = writer

    async def ListFeatureViews(
        self, _request: pb.ListFeatureViewsRequest, _context: Context
    ) -> pb.ListFeatureViewsResponse:
        """List the views by name."""
        views = self._catalogue().views
        return pb.ListFeatureViewsResponse(feature_views=[_view(views[name]) for name in sorted(views)])

    async def GetFeatures(self, request: pb.GetFeaturesRequest, _context: Context) -> pb.GetFeaturesResponse:
        """Read features of the caller's tenant."""
        tenant = identity.current().tenant
        entities = [_scalars(entity.keys) for entity in request.entities]
        reading = await self._reader.read(tenant, request.features, entities)
        response = pb.GetFeaturesResponse()
        step = max(1, _VALUES_AT_A_TIME // len(reading.names))
        for index, values in enumerate(reading.entities):
            if index and index % step == 0:
                await asyncio.sleep(0)
            entity = response.entities.add(entity=request.entities[index])
            _add_values(entity.values, reading.names, values)
        return response

    async def PushFeatures(self, request: pb.PushFeaturesRequest, _context: Context) -> pb.PushFeaturesResponse:
        """Write rows of the caller's tenant."""
        tenant = identity.current().tenant
        rows: list[Row] = []
        for row in request.rows:
            if rows and len(rows) % _ROWS_AT_A_TIME == 0:
                await asyncio.sleep(0)
            event_us = _micros(row.event_time) if row.HasField("event_time") else None
            rows.append(Row(_scalars(row.entity.keys), _scalars(row.values), event_us))
        result = await self._writer.push(tenant, request.feature_view, rows)
        rejected = [
            pb.RejectedRow(index=rejection.index, reason=rejection.reason.value, message=rejection.message)
            for rejection in result.rejected
        ]
        return pb.PushFeaturesResponse(accepted=result.accepted, rejected=rejected)


def feature_store_api(catalogue: CurrentCatalogue, reader: FeatureReader, writer: FeatureWriter) -> Service:
    """Return the service to serve, with the scope each method needs."""
    return Service(
        "penstock.feature_store.v1.FeatureStoreService",
        pb_grpc.add_FeatureStoreServiceServicer_to_server,
        FeatureStoreServicer(catalogue, reader, writer),
        {"ListFeatureViews": "features:read", "GetFeatures": "features:read", "PushFeatures": "features:write"},
    )


def _scalars(messages: Mapping[str, pb.Scalar]) -> dict[str, Scalar | None]:
    scalars: dict[str, Scalar | None] = {}
    for name, message in messages.items():
        kind = message.WhichOneof("kind")
        scalars[name] = None if kind is None else getattr(message, kind)
    return scalars


def _micros(moment: Timestamp) -> int | None:
    if not (0 <= moment.seconds <= _LAST_SECOND and 0 <= moment.nanos < 1_000 * _MICROS):
        return None
    return moment.seconds * _MICROS + moment.nanos // 1_000


def _add_values(target: Any, names: Sequence[str], values: Sequence[FeatureValue]) -> None:
    # Messages made in place: a third of the time that keyword constructors take, and most of a read is spent here.
    present, missing = Status.PRESENT, Status.MISSING
    for name, (status, value, event_us, age_us) in zip(names, values, strict=True):
        if status is missing:
            target.add(name=name, status=pb.FEATURE_STATUS_MISSING)
            continue
        code = pb.FEATURE_STATUS_PRESENT if status is present else pb.FEATURE_STATUS_STALE
        message = target.add(name=name, status=code)
        setattr(message.value, _FIELDS[type(value)], value)
        _set_micros(message.event_time, event_us)
        _set_micros(message.age, age_us)


def _set_micros(message: Any, micros: int) -> None:
    if micros == 0:
        message.SetInParent()
        return
    message.seconds, rest = divmod(micros, _MICROS)
    message.nanos = rest * 1_000


def _view(view: FeatureView) -> pb.FeatureView:
    message = pb.FeatureView(
        name=view.name,
        description=view.description,
        entity_keys=[pb.Field(name=name, type=_TYPES[kind]) for name, kind in view.entity_keys.items()],
        features=[pb.Field(name=name, type=_TYPES[kind]) for name, kind in view.features.items()],
    )
    _set_micros(message.ttl, view.ttl_us)
    return message
