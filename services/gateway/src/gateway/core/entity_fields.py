"""Checks what an administrator writes about tenants, projects and keys; a mistake is named by the path of its field."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from typing import Any, Final

from servicekit.errors import InvalidInput

from gateway.core.accounts import Limits, Priority
from gateway.core.changes import Entity
from gateway.core.keys import ApiKey
from gateway.core.pricing import NANOS_PER_DOLLAR

LARGEST_BUDGET_NANOS: Final = 9_000_000 * NANOS_PER_DOLLAR
"""A round number of dollars that doubles still count to the nano-dollar."""
LARGEST_COUNT: Final = 10**12
MOST_PATTERNS: Final = 200
LONGEST_PATTERN: Final = 256
LONGEST_NAME: Final = 128
FIRST_YEAR, LAST_YEAR = 2000, 9998
LIMIT_NAMES: Final = tuple(field.name for field in fields(Limits))

TENANT_FIELDS: Final = frozenset({"limits", "models", "region", "highest_priority"})
PROJECT_FIELDS: Final = frozenset({"limits", "models"})
KEY_FIELDS: Final = frozenset({"limits", "models", "name", "priority", "expires_at"})

_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_REGION: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,63})?")
_PATTERN: Final = re.compile(r"[!-Z\\^-~]+")
"""Printable, without spaces and brackets: what a model may be called, and `*` and `?`."""


def check_id(value: object, field: str) -> str:
    """Return the id of a tenant or project; raise InvalidInput when it is none."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidInput(f"{field} has to be 1 to 64 of a-z, 0-9, _ and -, not beginning with _ or -", field=field)
    return value


def is_id(value: str) -> bool:
    """Say whether a text can be the id of a tenant, a project or a key at all."""
    return _ID.fullmatch(value) is not None


def checked(values: Mapping[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    """Return the values as entities hold them, limits still apart; raise InvalidInput with the path of a wrong one."""
    for name in values:
        if name not in allowed:
            raise InvalidInput(f"unknown field {name!r}", reason="unknown_parameter", field=name)
    return {name: _CHECKS[name](value, name) for name, value in values.items()}


def updated(limits: Limits, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked values with the limits filled in: those that are not named stay as they are."""
    return {**values, "limits": replace(limits, **values.get("limits", {}))}


def shown(entity: Entity) -> dict[str, Any]:
    """Return an entity as the journal keeps it: plain values, and never the hash of a secret."""
    values: dict[str, Any] = {
        field.name: _plain(getattr(entity, field.name)) for field in fields(entity) if field.name != "secret_hash"
    }
    if isinstance(entity, ApiKey):
        values["scopes"] = sorted(entity.scopes)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Limits):
        return {name: limit for name, limit in asdict(value).items() if limit is not None}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Priority):
        return value.label
    return list(value) if isinstance(value, tuple | frozenset) else value


def _limits(value: Any, field: str) -> dict[str, int | None]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{field} has to be an object", field=field)
    for name, limit in value.items():
        path = f"{field}.{name}"
        if name not in LIMIT_NAMES:
            raise InvalidInput(f"unknown field {path!r}", reason="unknown_parameter", field=path)
        largest = LARGEST_BUDGET_NANOS if name.endswith("_nanos") else LARGEST_COUNT
        if limit is not None and (type(limit) is not int or not 0 <= limit <= largest):
            raise InvalidInput(f"{path} has to be a whole number from 0 to {largest}, or null for no limit", field=path)
    return dict(value)


def _models(value: Any, field: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) > MOST_PATTERNS:
        raise InvalidInput(f"{field} has to be a list of at most {MOST_PATTERNS}, or null for every model", field=field)
    for index, pattern in enumerate(value):
        if not isinstance(pattern, str) or len(pattern) > LONGEST_PATTERN or not _PATTERN.fullmatch(pattern):
            path = f"{field}[{index}]"
            raise InvalidInput(f"{path} has to be a model's name, where * and ? stand for others", field=path)
    return tuple(dict.fromkeys(value))


def _region(value: Any, field: str) -> str:
    if not isinstance(value, str) or not _REGION.fullmatch(value):
        raise InvalidInput(f"{field} has to be at most 64 of a-z, 0-9 and -, or empty for no pin", field=field)
    return value


def _priority(value: Any, field: str) -> Priority:
    if isinstance(value, Priority):
        return value
    for priority in Priority:
        if value == priority.label:
            return priority
    raise InvalidInput(f"{field} has to be one of {', '.join(each.label for each in Priority)}", field=field)


def _name(value: Any, field: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME or not value.isprintable():
        raise InvalidInput(f"{field} has to be 1 to {LONGEST_NAME} printable characters", field=field)
    return value


def _moment(value: Any, field: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None or not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise InvalidInput(f"{field} has to be a moment with its time zone, or null for never", field=field)
    return value.astimezone(UTC)


_CHECKS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "limits": _limits,
    "models": _models,
    "region": _region,
    "highest_priority": _priority,
    "priority": _priority,
    "name": _name,
    "expires_at": _moment,
}
