"""Reads features of entities, each value with how old it is and whether that is too old."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from servicekit.errors import InvalidInput
from servicekit.telemetry.metrics import counter

from feature_store.core.catalogue import Scalar, ScalarType
from feature_store.core.ports import Clock, EntityKey, OnlineValues, StoredValue, ViewQuery
from feature_store.core.read_plan import ReadPlan, ReadPlans, ViewRead
from feature_store.core.scalar_check import WrongType, fit

MAX_ENTITIES = 1_000
_VALUES_AT_A_TIME = 2_000  # about 2 ms of work, then others have their turn

_VALUES = counter("penstock_feature_store_values_read", "Values read, by status", labels=("status",))


class WrongEntityCount(InvalidInput):
    """No entity, or more than one request may name."""

    default_reason = "wrong_entity_count"


class WrongEntityKey(InvalidInput):
    """An entity lacks a key, has one too many, or one of the wrong type."""

    default_reason = "wrong_entity_key"


class Status(Enum):
    """How far a value may be trusted; a stale value is given all the same."""

    PRESENT = "present"
    MISSING = "missing"
    STALE = "stale"


class FeatureValue(NamedTuple):
    """A value, when it became true (microseconds since 1970) and its age at reading (microseconds).

    All three are None or zero when the value is missing.
    """

    status: Status
    value: Scalar | None
    event_us: int
    age_us: int


MISSING = FeatureValue(Status.MISSING, None, 0, 0)


@dataclass(frozen=True, slots=True)
class Reading:
    """For each entity asked, in order, its values in the order of `names`."""

    names: tuple[str, ...]
    entities: list[list[FeatureValue]]


@dataclass(frozen=True, slots=True)
class FeatureReader:
    """Answers what is known about entities now."""

    plans: ReadPlans
    values: OnlineValues
    clock: Clock

    async def read(self, tenant: str, names: Sequence[str], entities: Sequence[Mapping[str, Scalar | None]]) -> Reading:
        """Return the tenant's values of features written `view:feature` (1 to 200) for entities (1 to 1,000).

        Raises InvalidInput (naming the field), UnknownView, UnknownFeature and Unavailable.
        """
        plan = self.plans.plan(tuple(names))
        if not 1 <= len(entities) <= MAX_ENTITIES:
            raise WrongEntityCount(f"{len(entities)} entities asked; 1 to {MAX_ENTITIES} are allowed", field="entities")
        checked = [check_keys(plan.keys, entity, f"entities[{at}]") for at, entity in enumerate(entities)]
        result: list[list[FeatureValue]] = []
        size = max(1, _VALUES_AT_A_TIME // len(plan.names))
        for start in range(0, len(checked), size):
            if start:
                await asyncio.sleep(0)
            result += await self._read_some(tenant, plan, checked[start : start + size])
        return Reading(plan.names, result)

    async def _read_some(
        self, tenant: str, plan: ReadPlan, entities: list[dict[str, Scalar]]
    ) -> list[list[FeatureValue]]:
        queries = [ViewQuery(read.view, read.features, _keys(read, entities)) for read in plan.reads]
        answers = await self.values.read(tenant, queries)
        now_us = self.clock()
        result = [[MISSING] * len(plan.names) for _ in entities]
        for read, rows in zip(plan.reads, answers, strict=True):
            for values, row in zip(result, rows, strict=True):
                if row:
                    _fill(values, read, row, now_us)
        _count(result)
        return result


def check_keys(
    expected: Mapping[str, ScalarType], entity: Mapping[str, Scalar | None], field: str
) -> dict[str, Scalar]:
    """Return the keys of an entity, typed; raise WrongEntityKey with the path of the key at fault below `field`."""
    checked: dict[str, Scalar] = {}
    for name, kind in expected.items():
        value = entity.get(name)
        if value is None:
            raise WrongEntityKey(f"entity key {name!r} is missing", field=f"{field}.keys.{name}")
        try:
            checked[name] = fit(value, kind)
        except WrongType as error:
            raise WrongEntityKey(f"entity key {name!r} {error}", field=f"{field}.keys.{name}") from error
    if len(entity) > len(expected):
        name = min(entity.keys() - expected.keys())
        raise WrongEntityKey(f"entity key {name!r} is not one of any view asked", field=f"{field}.keys.{name}")
    return checked


def _keys(read: ViewRead, entities: list[dict[str, Scalar]]) -> list[EntityKey]:
    names = read.key_names
    return [tuple([entity[name] for name in names]) for entity in entities]


def _fill(values: list[FeatureValue], read: ViewRead, row: Mapping[str, StoredValue], now_us: int) -> None:
    present, stale, ttl_us = Status.PRESENT, Status.STALE, read.ttl_us
    for column in read.columns:
        stored = row.get(column.feature)
        if stored is None:
            continue
        value, event_us = stored
        # A value of another type is from before the definitions changed: it says nothing about the feature of today.
        if type(value) is not column.stored:
            continue
        age_us = max(0, now_us - event_us)
        if column.python is bool:
            value = bool(value)
        values[column.position] = FeatureValue(stale if 0 < ttl_us < age_us else present, value, event_us, age_us)


def _count(entities: list[list[FeatureValue]]) -> None:
    statuses = [value.status for values in entities for value in values]
    for status in Status:
        if found := statuses.count(status):
            _VALUES.labels(status.value).inc(found)
