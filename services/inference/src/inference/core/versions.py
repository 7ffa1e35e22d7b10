"""What versions of a model there are, how each was judged, which role each plays, and the rules of all that."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import ClassVar, Final

from servicekit.errors import Conflict, InvalidInput

from inference.core.traffic import SLOTS, Ranges, SplitBy, allocate

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
MAX_VARIANTS: Final = 8
MAX_CANARIES: Final = 8
MAX_VERSIONS: Final = 1_000
"""Of one model."""
MAX_COST_NANOS: Final = 10**15
NAMED_BY_DIGEST: Final = 12
"""Hexadecimal digits of the digest that name a version which got no name."""


class UnknownVersion(InvalidInput):
    """A role is given to a version that is not registered."""

    default_reason: ClassVar[str] = "unknown_version"


class NotEvaluated(InvalidInput):
    """A version without a variant whose evaluation passed was to answer callers."""

    default_reason: ClassVar[str] = "not_evaluated"


class InvalidWeight(InvalidInput):
    """A share of the traffic is no percentage, or all together are more than there is."""

    default_reason: ClassVar[str] = "invalid_weight"


class RolesClash(InvalidInput):
    """A version is given two roles that exclude each other."""

    default_reason: ClassVar[str] = "roles_clash"


class VersionExists(Conflict):
    """A version of this name is there with another content; versions do not change."""

    default_reason: ClassVar[str] = "version_exists"


class RolesChanged(Conflict):
    """The roles are not what the caller has read; he has to read them again."""

    default_reason: ClassVar[str] = "revision_conflict"


class Verdict(Enum):
    """What the evaluation of a variant said."""

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a version, such as int8: the catalogue's entry that runs it, its content, its price.

    `digest` is empty where the backend tells none; `cost_nanos` is nano-dollars per request, only compared.
    """

    name: str
    served_by: str
    digest: str
    cost_nanos: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The latest verdict on a variant, with who said it and when; `report` says where the figures are."""

    verdict: Verdict
    at: datetime
    by: str
    report: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model; it never changes once it is registered."""

    model: str
    name: str
    digest: str
    variants: tuple[Variant, ...]
    source: str
    registered_at: datetime
    registered_by: str

    def same_content(self, other: "Version") -> bool:
        """Tell whether both are the same version, whoever registered it and when."""
        return replace(other, registered_at=self.registered_at, registered_by=self.registered_by) == self


@dataclass(frozen=True, slots=True)
class Roles:
    """Who answers for a model: weights and shares are hundredths of a percent.

    An empty `champion` is the entry the catalogue declares under the model's own name. `slots` says which callers each
    canary has, `former` is the champion before this one, None when there was no other.
    """

    champion: str = ""
    canaries: Mapping[str, int] = field(default_factory=dict)
    shadow: str = ""
    shadow_share: int = 0
    retired: frozenset[str] = frozenset()
    split_by: SplitBy = SplitBy.KEY
    revision: int = 0
    slots: Mapping[str, Ranges] = field(default_factory=dict)
    former: str | None = None

    def role_of(self, version: str) -> str:
        """Return champion, canary, shadow, retired or nothing."""
        if version == self.champion:
            return "champion"
        if version in self.canaries:
            return "canary"
        if version == self.shadow:
            return "shadow"
        return "retired" if version in self.retired else ""


@dataclass(frozen=True, slots=True)
class Canary:
    """A wish that a version gets `weight_percent` of the traffic."""

    version: str
    weight_percent: float


@dataclass(frozen=True, slots=True)
class RolesWish:
    """The roles somebody wants, as he wrote them; nothing is checked yet."""

    champion: str = ""
    canaries: Sequence[Canary] = ()
    shadow: str = ""
    shadow_percent: float = 0.0
    retired: Sequence[str] = ()
    split_by: SplitBy = SplitBy.KEY


@dataclass(frozen=True, slots=True)
class Registered:
    """Everything known of one model's versions."""

    versions: Mapping[str, Version] = field(default_factory=dict)
    evaluations: Mapping[tuple[str, str], Evaluation] = field(default_factory=dict)
    roles: Roles = field(default_factory=Roles)

    def verdict(self, version: str, variant: str) -> Verdict:
        """Return the verdict on a variant."""
        found = self.evaluations.get((version, variant))
        return Verdict.PENDING if found is None else found.verdict

    def passed(self, version: str) -> tuple[Variant, ...]:
        """Return the variants of a version that may answer callers, the cheapest first."""
        known = self.versions[version].variants
        able = [each for each in known if self.verdict(version, each.name) is Verdict.PASSED]
        return tuple(sorted(able, key=lambda each: (each.cost_nanos, each.name)))


def content_digest(variants: Sequence[Variant]) -> str:
    """Return what identifies a version: its variant's digest, or one over those of all; empty when none is told."""
    if len(variants) == 1:
        return variants[0].digest
    if not any(each.digest for each in variants):
        return ""
    lines = "".join(f"{each.name}={each.digest}\n" for each in sorted(variants, key=lambda each: each.name))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def version_name(name: str, digest: str) -> str:
    """Return the name of a version, made of its digest where it has none; raise InvalidInput for a wrong one."""
    if not name and digest:
        return digest.removeprefix("sha256:")[:NAMED_BY_DIGEST]
    if not NAME.match(name):
        raise InvalidInput("a version has 1 to 64 letters, digits, . _ or -, a letter or digit first", field="version")
    return name


def check_variants(variants: Sequence[Variant]) -> None:
    """Raise InvalidInput, naming the field, for variants that are wrong in themselves."""
    if not 1 <= len(variants) <= MAX_VARIANTS:
        raise InvalidInput(f"a version has 1 to {MAX_VARIANTS} variants", field="variants")
    seen: set[str] = set()
    for index, variant in enumerate(variants):
        path = f"variants[{index}]"
        if not NAME.match(variant.name):
            raise InvalidInput("a variant has 1 to 64 letters, digits, . _ or -", field=f"{path}.name")
        if variant.name in seen:
            raise InvalidInput(f"there are two variants {variant.name!r}", field=f"{path}.name")
        seen.add(variant.name)
        if variant.digest and not DIGEST.match(variant.digest):
            raise InvalidInput("a digest is sha256: and 64 hexadecimal digits", field=f"{path}.digest")
        if not 0 <= variant.cost_nanos <= MAX_COST_NANOS:
            raise InvalidInput(f"a cost is from 0 to {MAX_COST_NANOS}", field=f"{path}.cost_nanos")


def next_roles(known: Registered, wish: RolesWish) -> Roles:
    """Return the roles as they are to be after `known`; raise InvalidInput, naming the field, for what cannot be."""
    before = known.roles
    weights = _weights(known, wish)
    if wish.champion:
        _require_able(known, wish, wish.champion, "champion")
    if len(wish.retired) > MAX_VERSIONS:
        raise InvalidInput(f"at most {MAX_VERSIONS} versions are there to retire", field="retired")
    share = _hundredths(wish.shadow_percent, "shadow_percent")
    _check_shadow(known, wish)
    for index, version in enumerate(wish.retired):
        _require_known(known, version, f"retired[{index}]")
        if version in {wish.champion, wish.shadow, *weights}:
            raise RolesClash(f"{version[:64]} cannot be retired and have another role", field=f"retired[{index}]")
    return Roles(
        champion=wish.champion,
        canaries=weights,
        shadow=wish.shadow,
        shadow_share=share if wish.shadow else 0,
        retired=frozenset(wish.retired),
        split_by=wish.split_by,
        revision=before.revision + 1,
        slots=allocate(before.slots, weights),
        former=before.former if wish.champion == before.champion else before.champion,
    )


def _weights(known: Registered, wish: RolesWish) -> dict[str, int]:
    if len(wish.canaries) > MAX_CANARIES:
        raise InvalidInput(f"at most {MAX_CANARIES} canaries", field="canaries")
    weights: dict[str, int] = {}
    for index, canary in enumerate(wish.canaries):
        path = f"canaries[{index}]"
        _require_able(known, wish, canary.version, f"{path}.version")
        if canary.version in weights or canary.version == wish.champion:
            raise RolesClash(f"{canary.version[:64]} has a role already", field=f"{path}.version")
        weights[canary.version] = _hundredths(canary.weight_percent, f"{path}.weight_percent")
    if sum(weights.values()) > SLOTS:
        raise InvalidWeight("the weights of the canaries are more than 100 together", field="canaries")
    return weights


def _hundredths(percent: float, path: str) -> int:
    if not (math.isfinite(percent) and 0 <= percent <= 100):
        raise InvalidWeight("a share is from 0 to 100 percent", field=path)
    rounded = round(percent * 100)
    if percent and not rounded:
        raise InvalidWeight("the smallest share is 0.01 percent", field=path)
    return rounded


def _check_shadow(known: Registered, wish: RolesWish) -> None:
    if not wish.shadow:
        if wish.shadow_percent:
            raise InvalidInput("shadow_percent needs a shadow", field="shadow_percent")
        return
    _require_known(known, wish.shadow, "shadow")
    if wish.shadow in {wish.champion, *(canary.version for canary in wish.canaries)}:
        raise RolesClash(f"{wish.shadow[:64]} has a role already", field="shadow")


def _require_known(known: Registered, version: str, path: str) -> None:
    if version not in known.versions:
        raise UnknownVersion(f"there is no version {version[:64]!r}", field=path)


def _require_able(known: Registered, wish: RolesWish, version: str, path: str) -> None:
    _require_known(known, version, path)
    if version in wish.retired:
        raise RolesClash(f"{version[:64]} is retired", field=path)
    if not known.passed(version):
        raise NotEvaluated(f"no variant of {version[:64]} has passed its evaluation", field=path)
