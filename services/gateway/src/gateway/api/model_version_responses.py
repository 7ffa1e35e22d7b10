"""What the calls about model versions read and answer with, and how messages of the pool are put into it."""

import json
from datetime import UTC
from typing import Any, Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp
from penstock.inference.v1 import versions_pb2 as pb
from pydantic import Field

from gateway.api.body import INT64_MAX, Body
from gateway.api.responses import Shown

ROLES: Final = {
    pb.VERSION_ROLE_CHAMPION: "champion",
    pb.VERSION_ROLE_CANARY: "canary",
    pb.VERSION_ROLE_SHADOW: "shadow",
    pb.VERSION_ROLE_RETIRED: "retired",
}
VERDICTS: Final = {"pending": pb.VERDICT_UNSPECIFIED, "passed": pb.VERDICT_PASSED, "failed": pb.VERDICT_FAILED}
VERDICT_NAMES: Final = {value: name for name, value in VERDICTS.items()}
SPLITS: Final = {"key": pb.SPLIT_BY_KEY, "tenant": pb.SPLIT_BY_TENANT, "request": pb.SPLIT_BY_REQUEST}
SPLIT_NAMES: Final = {value: name for name, value in SPLITS.items()}
Verdict = Literal["pending", "passed", "failed"]
Split = Literal["key", "tenant", "request"]


class VariantBody(Body):
    """A variant to be registered; without a digest it is what the catalogue's entry runs now."""

    name: str = ""
    served_by: str
    digest: str = ""
    cost_nanos: int = Field(0, ge=0, le=INT64_MAX)


class NewVersionBody(Body):
    """A version to be registered; without a name it is named by its digest."""

    version: str = ""
    variants: list[VariantBody]
    source: str = ""


class ImportBody(Body):
    """A version of MLflow, `models:/NAME@ALIAS` or `models:/NAME/VERSION`, and what runs it."""

    uri: str
    variant: VariantBody


class EvaluationBody(Body):
    """What an evaluation said of a variant."""

    variant: str = ""
    verdict: Verdict
    report: str = ""


class CanaryBody(Body):
    """A share of the traffic."""

    version: str
    weight_percent: float


class RolesBody(Body):
    """All roles of a model, and the revision they were made for."""

    revision: int = Field(ge=0, le=INT64_MAX)
    champion: str = ""
    canaries: list[CanaryBody] = Field(default_factory=list)
    shadow: str = ""
    shadow_percent: float = 0.0
    retired: list[str] = Field(default_factory=list)
    split_by: Split = "key"


class VariantShown(Shown):
    """One way to run a version; `servable` says that its entry would serve now and runs what was registered."""

    name: str
    served_by: str
    digest: str
    cost_nanos: int
    verdict: Verdict
    report: str
    evaluated_at: str | None
    evaluated_by: str
    servable: bool


class VersionShown(Shown):
    """A version; `role` is champion, canary, shadow, retired or null."""

    model: str
    version: str
    digest: str
    variants: list[VariantShown]
    source: str
    registered_at: str
    registered_by: str
    role: str | None


class CanaryShown(Shown):
    """A share of the traffic."""

    version: str
    weight_percent: float


class RolesShown(Shown):
    """Who answers for a model; an empty champion is the catalogue's own entry, a null former one is none."""

    revision: int
    champion: str
    canaries: list[CanaryShown]
    shadow: str
    shadow_percent: float
    retired: list[str]
    split_by: Split
    former_champion: str | None = None


class Versions(Shown):
    """The versions of a model."""

    versions: list[VersionShown]


class VersionChangeShown(Shown):
    """A line of the journal; in `before` and `after` shares are hundredths of a percent."""

    id: int
    model: str
    at: str
    by: str
    action: str
    before: dict[str, Any]
    after: dict[str, Any]


class VersionChanges(Shown):
    """A page of the journal, newest first."""

    changes: list[VersionChangeShown]
    next_page_token: str | None


class ShadowReportShown(Shown):
    """How a shadow's answers differed from the champion's, over the latest requests that were mirrored."""

    requests: int
    same: int
    failed: int
    max_abs_diff: float | None
    champion_mean_ms: float
    shadow_mean_ms: float
    details: list[str]


def variant_message(body: VariantBody) -> pb.NewVariant:
    """Return a variant to be registered as the pool takes it."""
    return pb.NewVariant(name=body.name, served_by=body.served_by, digest=body.digest, cost_nanos=body.cost_nanos)


def roles_message(body: RolesBody) -> pb.Roles:
    """Return roles as the pool takes them."""
    return pb.Roles(
        champion=body.champion,
        canaries=[pb.CanaryWeight(version=each.version, weight_percent=each.weight_percent) for each in body.canaries],
        shadow=body.shadow,
        shadow_percent=body.shadow_percent,
        retired=body.retired,
        split_by=SPLITS[body.split_by],
    )


def version_json(version: pb.Version) -> dict[str, Any]:
    """Return a version as it is shown."""
    return {
        "model": version.model,
        "version": version.name,
        "digest": version.digest,
        "variants": [_variant_json(each) for each in version.variants],
        "source": version.source,
        "registered_at": _moment(version.registered_at),
        "registered_by": version.registered_by,
        "role": ROLES.get(version.role),
    }


def roles_json(found: pb.GetRolesResponse | pb.SetRolesResponse) -> dict[str, Any]:
    """Return roles as they are shown."""
    roles = found.roles
    return {
        "revision": found.revision,
        "champion": roles.champion,
        "canaries": [{"version": each.version, "weight_percent": each.weight_percent} for each in roles.canaries],
        "shadow": roles.shadow,
        "shadow_percent": roles.shadow_percent,
        "retired": list(roles.retired),
        "split_by": SPLIT_NAMES.get(roles.split_by, "key"),
        "former_champion": found.former_champion if found.HasField("former_champion") else None,
    }


def change_json(change: pb.VersionChange) -> dict[str, Any]:
    """Return a line of the journal as it is shown."""
    return {
        "id": change.id,
        "model": change.model,
        "at": _moment(change.at),
        "by": change.by,
        "action": change.action,
        "before": json.loads(change.before_json),
        "after": json.loads(change.after_json),
    }


def report_json(report: pb.GetShadowReportResponse) -> dict[str, Any]:
    """Return what a shadow has shown."""
    return {
        "requests": report.requests,
        "same": report.same,
        "failed": report.failed,
        "max_abs_diff": report.max_abs_diff if report.HasField("max_abs_diff") else None,
        "champion_mean_ms": report.champion_mean_ms,
        "shadow_mean_ms": report.shadow_mean_ms,
        "details": list(report.details),
    }


def _variant_json(variant: pb.Variant) -> dict[str, Any]:
    return {
        "name": variant.name,
        "served_by": variant.served_by,
        "digest": variant.digest,
        "cost_nanos": variant.cost_nanos,
        "verdict": VERDICT_NAMES.get(variant.verdict, "pending"),
        "report": variant.report,
        "evaluated_at": _moment(variant.evaluated_at) if variant.HasField("evaluated_at") else None,
        "evaluated_by": variant.evaluated_by,
        "servable": variant.servable,
    }


def _moment(moment: Timestamp) -> str:
    return moment.ToDatetime(UTC).isoformat().replace("+00:00", "Z")
