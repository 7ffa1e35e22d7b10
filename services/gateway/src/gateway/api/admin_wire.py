"""Tenants, projects and keys as protobuf messages, and what an update says about them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.gateway.v1 import admin_pb2 as pb
from servicekit.errors import InvalidInput

from gateway.core.accounts import Limits, Priority
from gateway.core.changes import Change
from gateway.core.entity_fields import LIMIT_NAMES
from gateway.core.keys import ApiKey
from gateway.core.tenants import Project, Tenant

PRIORITIES: Final = {
    pb.PRIORITY_BATCH: Priority.BATCH,
    pb.PRIORITY_STANDARD: Priority.STANDARD,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
}


def created(message: Any, fields: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a new entity that say something, as the core takes them."""
    return {name: _READ[name](message, name) for name in fields if _is_set(message, name)}


def masked(message: Any, paths: Sequence[str]) -> dict[str, Any]:
    """Return the fields that a mask names, as the core takes them; it refuses those that do not exist."""
    values: dict[str, Any] = {}
    limits: dict[str, int | None] = {}
    for path in paths:
        name, _, limit = path.partition(".")
        if name == "limits":
            limits |= _limits(message, name) if not limit else {limit: _limit(message.limits, limit)}
        else:
            values[path] = _READ[path](message, path) if path in _READ else None
    return {**values, "limits": limits} if limits else values


def tenant_message(tenant: Tenant) -> pb.Tenant:
    """Return a tenant as a message."""
    return pb.Tenant(
        id=tenant.id,
        limits=_limits_message(tenant.limits),
        models=_models_message(tenant.models),
        region=tenant.region,
        highest_priority=_priority_value(tenant.highest_priority),
        source=tenant.source,
        version=tenant.version,
        created_at=_timestamp(tenant.created_at),
    )


def project_message(project: Project) -> pb.Project:
    """Return a project as a message."""
    return pb.Project(
        tenant=project.tenant,
        id=project.id,
        limits=_limits_message(project.limits),
        models=_models_message(project.models),
        source=project.source,
        version=project.version,
        created_at=_timestamp(project.created_at),
    )


def key_message(key: ApiKey) -> pb.ApiKey:
    """Return a key as a message, without its secret."""
    return pb.ApiKey(
        public_id=key.public_id,
        tenant=key.tenant,
        project=key.project,
        name=key.name,
        role=key.role,
        scopes=sorted(key.scopes),
        priority=_priority_value(key.priority),
        limits=_limits_message(key.limits),
        models=_models_message(key.models),
        expires_at=_timestamp(key.expires_at),
        revoke_at=_timestamp(key.revoked_at),
        replaces=key.replaces,
        line=key.line_id,
        version=key.version,
        created_at=_timestamp(key.created_at),
    )


def change_message(change: Change) -> pb.AdminChange:
    """Return a note of the journal as a message."""
    return pb.AdminChange(
        id=change.id,
        at=_timestamp(change.at),
        actor=change.actor,
        actor_tenant=change.actor_tenant,
        action=change.action,
        tenant=change.tenant,
        target=change.target,
        before=_struct(change.before),
        after=_struct(change.after),
    )


def _is_set(message: Any, name: str) -> bool:
    field = message.DESCRIPTOR.fields_by_name[name]
    return bool(message.HasField(name) if field.message_type is not None else getattr(message, name))


def _limits(message: Any, name: str) -> dict[str, int | None]:
    return {limit: _limit(getattr(message, name), limit) for limit in LIMIT_NAMES}


def _limit(limits: pb.UsageLimits, name: str) -> int | None:
    if name not in LIMIT_NAMES:
        raise InvalidInput(f"unknown field 'limits.{name}'", reason="unknown_parameter", field=f"limits.{name}")
    return getattr(limits, name) if limits.HasField(name) else None  # type: ignore[arg-type]  # one of its names


def _models(message: Any, name: str) -> tuple[str, ...] | None:
    return tuple(getattr(message, name).patterns) if message.HasField(name) else None


def _plain(message: Any, name: str) -> Any:
    return getattr(message, name)


def _priority(message: Any, name: str) -> Priority | None:
    return PRIORITIES.get(getattr(message, name))


def _moment(message: Any, name: str) -> datetime | None:
    if not message.HasField(name):
        return None
    try:
        moment: datetime = getattr(message, name).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{name} is no moment", field=name) from error
    return moment


_READ: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "limits": _limits,
    "models": _models,
    "region": _plain,
    "name": _plain,
    "highest_priority": _priority,
    "priority": _priority,
    "expires_at": _moment,
}


def _limits_message(limits: Limits) -> pb.UsageLimits:
    return pb.UsageLimits(**{name: value for name, value in asdict(limits).items() if value is not None})


def _models_message(models: tuple[str, ...] | None) -> pb.ModelAllowlist | None:
    return None if models is None else pb.ModelAllowlist(patterns=models)


def _priority_value(priority: Priority) -> "pb.Priority.ValueType":
    return next(value for value, each in PRIORITIES.items() if each is priority)


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    made = Timestamp()
    made.FromDatetime(moment.astimezone(UTC).replace(tzinfo=None))
    return made


def _struct(kept: Mapping[str, Any] | None) -> Struct | None:
    return None if kept is None else ParseDict(dict(kept), Struct())
