"""Turns the names a caller asks for into reads of views, once per catalogue generation and set of names."""

from collections.abc import Mapping
from dataclasses import dataclass

from servicekit.errors import InvalidInput
from servicekit.telemetry.metrics import counter

from feature_store.core.catalogue import PYTHON, Catalogue, FeatureView, Scalar, ScalarType, UnknownFeature
from feature_store.core.ports import CurrentCatalogue

MAX_FEATURES = 200
_PLANS_KEPT = 256

_COMPILED = counter("penstock_feature_store_read_plans_compiled", "Read plans compiled (not found ready)")


class MalformedFeatureName(InvalidInput):
    """A feature is not written `view:feature`."""

    default_reason = "malformed_feature_name"


class WrongFeatureCount(InvalidInput):
    """No feature, or more than one request may ask."""

    default_reason = "wrong_feature_count"


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of a view: where it stands in the answer, its name, and its type in Python and in store."""

    position: int
    feature: str
    python: type[Scalar]
    stored: type[Scalar]


@dataclass(frozen=True, slots=True)
class ViewRead:
    """What to read from one view; key names are sorted, as the values of an EntityKey are."""

    view: str
    ttl_us: int
    key_names: tuple[str, ...]
    features: tuple[str, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How to answer one list of feature names: the keys each entity needs and one read per view."""

    names: tuple[str, ...]
    keys: Mapping[str, ScalarType]
    reads: tuple[ViewRead, ...]


class ReadPlans:
    """Keeps the plans of the catalogue in force, the oldest leaving first."""

    def __init__(self, catalogue: CurrentCatalogue) -> None:
        self._catalogue = catalogue
        self._generation = ""
        self._plans: dict[tuple[str, ...], ReadPlan] = {}

    def plan(self, names: tuple[str, ...]) -> ReadPlan:
        """Return the plan for these names; raise InvalidInput, UnknownView or UnknownFeature."""
        catalogue = self._catalogue()
        if catalogue.generation != self._generation:
            self._plans.clear()
            self._generation = catalogue.generation
        plan = self._plans.get(names)
        if plan is None:
            plan = compile_plan(catalogue, names)
            if len(self._plans) >= _PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[names] = plan
        return plan


def compile_plan(catalogue: Catalogue, names: tuple[str, ...]) -> ReadPlan:
    """Resolve names of the form `view:feature`; raise InvalidInput, UnknownView or UnknownFeature."""
    if not 1 <= len(names) <= MAX_FEATURES:
        raise WrongFeatureCount(f"{len(names)} features asked; 1 to {MAX_FEATURES} are allowed", field="features")
    _COMPILED.inc()
    columns: dict[str, list[Column]] = {}
    for position, name in enumerate(names):
        view, feature = _resolve(catalogue, name, f"features[{position}]")
        columns.setdefault(view.name, []).append(_column(position, feature, view.features[feature]))
    keys: dict[str, ScalarType] = {}
    for view_name in columns:
        keys |= catalogue.views[view_name].entity_keys
    reads = tuple(_view_read(catalogue.views[view_name], found) for view_name, found in columns.items())
    return ReadPlan(names, keys, reads)


def _resolve(catalogue: Catalogue, name: str, field: str) -> tuple[FeatureView, str]:
    view_name, colon, feature = name.partition(":")
    if not (view_name and colon and feature):
        raise MalformedFeatureName(f"{name!r} is not of the form view:feature", field=field)
    view = catalogue.view(view_name, field)
    if feature not in view.features:
        raise UnknownFeature(f"feature view {view_name!r} has no feature {feature!r}", field=field)
    return view, feature


def _column(position: int, feature: str, kind: ScalarType) -> Column:
    python = PYTHON[kind]
    return Column(position, feature, python, int if python is bool else python)


def _view_read(view: FeatureView, columns: list[Column]) -> ViewRead:
    features = tuple(dict.fromkeys(column.feature for column in columns))
    return ViewRead(view.name, view.ttl_us, tuple(sorted(view.entity_keys)), features, tuple(columns))
