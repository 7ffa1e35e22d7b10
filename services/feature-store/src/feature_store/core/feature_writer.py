"""Takes in rows of news about entities, accepting or rejecting them one by one."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from servicekit.errors import InvalidInput
from servicekit.telemetry.metrics import counter

from feature_store.core.catalogue import FeatureView, Scalar
from feature_store.core.ports import Clock, CurrentCatalogue, OnlineValues, StoredRow
from feature_store.core.scalar_check import WrongType, fit

MAX_ROWS = 10_000
MAX_LEAD_US = 5 * 60 * 1_000_000
_ROWS_AT_A_TIME = 500  # a few ms of checking, then others have their turn

_ROWS = counter("penstock_feature_store_rows_pushed", "Rows pushed, by view and outcome", labels=("view", "outcome"))


class WrongRowCount(InvalidInput):
    """No row, or more than one request may carry."""

    default_reason = "wrong_row_count"


class Reason(Enum):
    """Why a row was rejected; the values are stable."""

    UNKNOWN_FIELD = "unknown_field"
    WRONG_TYPE = "wrong_type"
    MISSING_KEY = "missing_key"
    NO_VALUE = "no_value"
    MISSING_EVENT_TIME = "missing_event_time"
    FUTURE_EVENT_TIME = "future_event_time"
    LATE_EVENT = "late_event"


@dataclass(frozen=True, slots=True)
class Row:
    """News about one entity, None = null; `event_us` is when it became true (microseconds since 1970)."""

    keys: Mapping[str, Scalar | None]
    values: Mapping[str, Scalar | None]
    event_us: int | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Position of a row in the request, from 0, why it was rejected, and the same for people."""

    index: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class PushResult:
    """How many rows were accepted, and the others in the order sent."""

    accepted: int
    rejected: list[Rejection]


class _Rejected(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FeatureWriter:
    """Keeps what is pushed, unless something newer is known."""

    catalogue: CurrentCatalogue
    values: OnlineValues
    clock: Clock

    async def push(self, tenant: str, view_name: str, rows: Sequence[Row]) -> PushResult:
        """Write 1 to 10,000 rows of one view for the tenant; every accepted row is durable on return.

        Each value is kept unless a later one is there; of equal event times the later push wins. A row none of
        whose values was kept is rejected as late. Raises InvalidInput, UnknownView and Unavailable (`storage_full`).
        """
        view = self.catalogue().view(view_name, "feature_view")
        if not 1 <= len(rows) <= MAX_ROWS:
            raise WrongRowCount(f"{len(rows)} rows sent; 1 to {MAX_ROWS} are allowed", field="rows")
        good: dict[int, StoredRow] = {}
        rejected: list[Rejection] = []
        latest_us = self.clock() + MAX_LEAD_US
        for index, row in enumerate(rows):
            if index and index % _ROWS_AT_A_TIME == 0:
                await asyncio.sleep(0)
            try:
                good[index] = _check(view, row, latest_us)
            except _Rejected as error:
                rejected.append(Rejection(index, error.reason, str(error)))
        kept = await self.values.write(tenant, view_name, list(good.values())) if good else []
        rejected += [
            Rejection(index, Reason.LATE_EVENT, "newer values are known for every feature of this row")
            for index, was_kept in zip(good, kept, strict=True)
            if not was_kept
        ]
        rejected.sort(key=lambda rejection: rejection.index)
        _count(view_name, sum(kept), rejected)
        return PushResult(sum(kept), rejected)


def _check(view: FeatureView, row: Row, latest_us: int) -> StoredRow:
    key = _typed_keys(view, row)
    if row.event_us is None:
        raise _Rejected(Reason.MISSING_EVENT_TIME, "event_time is missing or no time since 1970")
    if row.event_us > latest_us:
        raise _Rejected(Reason.FUTURE_EVENT_TIME, "event_time is more than 5 minutes ahead")
    values: dict[str, Scalar | None] = {}
    for name, value in row.values.items():
        if name not in view.features:
            raise _Rejected(Reason.UNKNOWN_FIELD, f"view {view.name!r} has no feature {name!r}")
        try:
            values[name] = None if value is None else fit(value, view.features[name])
        except WrongType as error:
            raise _Rejected(Reason.WRONG_TYPE, f"feature {name!r} {error}") from error
    if all(value is None for value in values.values()):
        raise _Rejected(Reason.NO_VALUE, "no feature has a value")
    return StoredRow(key, values, row.event_us)


def _typed_keys(view: FeatureView, row: Row) -> tuple[Scalar, ...]:
    key: list[Scalar] = []
    for name in sorted(view.entity_keys):
        value = row.keys.get(name)
        if value is None:
            raise _Rejected(Reason.MISSING_KEY, f"entity key {name!r} is missing")
        try:
            key.append(fit(value, view.entity_keys[name]))
        except WrongType as error:
            raise _Rejected(Reason.WRONG_TYPE, f"entity key {name!r} {error}") from error
    if len(row.keys) > len(key):
        name = min(row.keys.keys() - view.entity_keys.keys())
        raise _Rejected(Reason.UNKNOWN_FIELD, f"view {view.name!r} has no entity key {name!r}")
    return tuple(key)


def _count(view_name: str, accepted: int, rejected: list[Rejection]) -> None:
    outcomes = Counter(rejection.reason.value for rejection in rejected)
    outcomes["accepted"] = accepted
    for outcome, number in outcomes.items():
        _ROWS.labels(view_name, outcome).inc(number)
