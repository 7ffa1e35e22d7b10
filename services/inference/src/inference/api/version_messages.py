"""Turns messages of VersionService into what the registry takes, and what it has into messages."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from penstock.inference.v1 import versions_pb2 as pb
from servicekit.errors import InvalidInput

from inference.core.traffic import SplitBy
from inference.core.version_ports import Change
from inference.core.versions import Canary, Registered, Roles, RolesWish, Variant, Verdict, Version

DEFAULT_VARIANT: Final = "default"
SPLITS: Final = {
    pb.SPLIT_BY_UNSPECIFIED: SplitBy.KEY,
    pb.SPLIT_BY_KEY: SplitBy.KEY,
    pb.SPLIT_BY_TENANT: SplitBy.TENANT,
    pb.SPLIT_BY_REQUEST: SplitBy.REQUEST,
}
SPLIT_MESSAGES: Final = {split: message for message, split in SPLITS.items()}
VERDICTS: Final = {
    pb.VERDICT_UNSPECIFIED: Verdict.PENDING,
    pb.VERDICT_PASSED: Verdict.PASSED,
    pb.VERDICT_FAILED: Verdict.FAILED,
}
VERDICT_MESSAGES: Final = {verdict: message for message, verdict in VERDICTS.items()}
ROLES: Final = {
    "champion": pb.VERSION_ROLE_CHAMPION,
    "canary": pb.VERSION_ROLE_CANARY,
    "shadow": pb.VERSION_ROLE_SHADOW,
    "retired": pb.VERSION_ROLE_RETIRED,
}


def read_variant(message: pb.NewVariant) -> Variant:
    """Return a variant to be registered."""
    return Variant(message.name or DEFAULT_VARIANT, message.served_by, message.digest, message.cost_nanos)


def read_verdict(value: "pb.Verdict.ValueType") -> Verdict:
    """Return a verdict; raise InvalidInput for one that is not known."""
    if value not in VERDICTS:
        raise InvalidInput("this verdict is not known", field="verdict")
    return VERDICTS[value]


def read_wish(message: pb.Roles) -> RolesWish:
    """Return roles that are wished for; raise InvalidInput for a split that is not known."""
    if message.split_by not in SPLITS:
        raise InvalidInput("this split is not known", field="split_by")
    return RolesWish(
        message.champion,
        [Canary(each.version, each.weight_percent) for each in message.canaries],
        message.shadow,
        message.shadow_percent,
        list(message.retired),
        SPLITS[message.split_by],
    )


def write_version(version: Version, known: Registered, servable: Mapping[str, bool]) -> pb.Version:
    """Return a version as it travels; `servable` says of each variant whether it could serve now."""
    return pb.Version(
        model=version.model,
        name=version.name,
        digest=version.digest,
        variants=[_variant(version.name, each, known, servable[each.name]) for each in version.variants],
        source=version.source,
        registered_at=_moment(version.registered_at),
        registered_by=version.registered_by,
        role=ROLES.get(known.roles.role_of(version.name), pb.VERSION_ROLE_UNSPECIFIED),
    )


def write_roles(roles: Roles) -> pb.Roles:
    """Return roles as they travel."""
    return pb.Roles(
        champion=roles.champion,
        canaries=[pb.CanaryWeight(version=name, weight_percent=each / 100) for name, each in roles.canaries.items()],
        shadow=roles.shadow,
        shadow_percent=roles.shadow_share / 100,
        retired=sorted(roles.retired),
        split_by=SPLIT_MESSAGES[roles.split_by],
    )


def write_change(change: Change) -> pb.VersionChange:
    """Return a line of the journal as it travels."""
    return pb.VersionChange(
        id=change.id,
        model=change.model,
        at=_moment(change.at),
        by=change.by,
        action=change.action,
        before_json=change.before,
        after_json=change.after,
    )


def _variant(version: str, variant: Variant, known: Registered, servable: bool) -> pb.Variant:
    evaluation = known.evaluations.get((version, variant.name))
    told: dict[str, Any] = {}
    if evaluation is not None:
        told = {
            "verdict": VERDICT_MESSAGES[evaluation.verdict],
            "report": evaluation.report,
            "evaluated_at": _moment(evaluation.at),
            "evaluated_by": evaluation.by,
        }
    return pb.Variant(
        name=variant.name,
        served_by=variant.served_by,
        digest=variant.digest,
        cost_nanos=variant.cost_nanos,
        servable=servable,
        **told,
    )


def _moment(at: datetime) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(at)
    return moment
