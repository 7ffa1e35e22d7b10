"""What REST answers with about features, as OpenAPI shows it."""

from typing import Literal

from gateway.api.responses import Shown


class Field(Shown):
    """A key or a feature."""

    name: str
    type: str


class FeatureView(Shown):
    """Features of one kind of entity; `ttl_s` 0 means that values never grow stale."""

    object: Literal["feature_view"]
    name: str
    description: str
    entity_keys: list[Field]
    features: list[Field]
    ttl_s: float


class FeatureViews(Shown):
    """Feature views by name."""

    object: Literal["list"]
    data: list[FeatureView]


class FeatureValue(Shown):
    """A value with its age in seconds."""

    name: str
    status: Literal["present", "missing", "stale"]
    value: bool | int | float | str | None
    event_time: str | None
    age_s: float | None


class EntityFeatures(Shown):
    """Values of one entity, in the order asked."""

    entity: dict[str, bool | int | float | str]
    values: list[FeatureValue]


class FeatureRows(Shown):
    """Entities in the order asked."""

    object: Literal["list"]
    data: list[EntityFeatures]


class RejectedRow(Shown):
    """A row that was not written."""

    index: int
    reason: str
    message: str


class FeaturePush(Shown):
    """How many rows were written, and which were not."""

    object: Literal["feature_push"]
    accepted: int
    rejected: list[RejectedRow]
