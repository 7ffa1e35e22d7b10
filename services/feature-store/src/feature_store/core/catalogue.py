"""The feature views that are served: their entities, their schema and how long their values stay fresh."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from servicekit.errors import NotFound

Scalar = bool | int | float | str
"""A value of a feature or of an entity key."""


class UnknownView(NotFound):
    """No feature view has this name."""

    default_reason = "unknown_view"


class UnknownFeature(NotFound):
    """The feature view has no feature of this name."""

    default_reason = "unknown_feature"


class ScalarType(Enum):
    """Type of a feature or of an entity key; the value is its name in the catalogue file."""

    BOOL = "bool"
    INT = "int"
    DOUBLE = "double"
    STRING = "string"


PYTHON: Mapping[ScalarType, type[Scalar]] = {
    ScalarType.BOOL: bool,
    ScalarType.INT: int,
    ScalarType.DOUBLE: float,
    ScalarType.STRING: str,
}
"""The Python type that holds each."""


@dataclass(frozen=True, slots=True)
class FeatureView:
    """Features of one kind of entity. Values older than `ttl_us` microseconds are stale; zero means never."""

    name: str
    description: str
    entity_keys: Mapping[str, ScalarType]
    features: Mapping[str, ScalarType]
    ttl_us: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All feature views by name. Two catalogues of the same `generation` are equal."""

    generation: str
    views: Mapping[str, FeatureView]

    def view(self, name: str, field: str) -> FeatureView:
        """Return the view of that name; raise UnknownView, blaming the request's `field`."""
        if name not in self.views:
            raise UnknownView(f"there is no feature view {name!r}", field=field)
        return self.views[name]
