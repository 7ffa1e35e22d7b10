"""Registers versions, changes their roles, and keeps the routes of this process as the store has them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar, Final, TypeVar

from servicekit.errors import Conflict, InvalidInput, NotFound, Unavailable

from inference.core.served_model import ServedModel
from inference.core.traffic import Candidate, Route, Traffic, table_of
from inference.core.version_ports import Assignment, Change, Judgement, Outdated, VersionStore
from inference.core.versions import (
    MAX_VERSIONS,
    Evaluation,
    Registered,
    Roles,
    RolesChanged,
    RolesWish,
    Variant,
    Verdict,
    Version,
    VersionExists,
    check_variants,
    content_digest,
    next_roles,
    version_name,
)

POLL_S: Final = 1.0
LONGEST_REPORT: Final = 2_000
TRIES: Final = 50
"""Of these each is lost only to another process's write, so that many are lost to nobody."""
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class DigestMismatch(InvalidInput):
    """What is registered is not what the backend runs."""

    default_reason: ClassVar[str] = "digest_mismatch"


class NotServable(Conflict):
    """Who is to answer everybody could not answer now, so the old champion stays."""

    default_reason: ClassVar[str] = "not_servable"


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version somebody wants to register; an empty digest is taken over from the backend."""

    model: str
    name: str
    variants: Sequence[Variant]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What an evaluation said of a variant; `report` says where its figures are."""

    variant: str
    verdict: Verdict
    report: str = ""


class Registry:
    """The versions of the catalogue's models."""

    def __init__(
        self,
        store: VersionStore,
        entries: Mapping[str, ServedModel],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take where versions are kept, the catalogue's entries by name, and the time."""
        self.traffic = Traffic()
        self._store = store
        self._entries = entries
        self._clock = clock
        self._known: Mapping[str, Registered] = {}
        self._generation = -1
        self._fresh = True
        self._turn = asyncio.Lock()

    async def watch(self) -> None:
        """Take over what other processes change, within about a second, until cancelled."""
        while True:
            try:
                await self.refresh()
                self._note(fresh=True)
            except Unavailable as error:
                self._note(fresh=False, why=error.message)
            await asyncio.sleep(POLL_S)

    async def refresh(self) -> None:
        """Take over what has changed since the last time; raise Unavailable when the store cannot be read."""
        generation = await self._store.generation()
        if generation != self._generation:
            await self._load(generation)

    def known(self, model: str) -> Registered:
        """Return what is known of a model; raise NotFound when the catalogue does not have it."""
        self._entry(model, "model")
        return self._known.get(model, Registered())

    def version(self, model: str, name: str) -> Version:
        """Return a version; raise NotFound."""
        found = self.known(model).versions.get(name)
        if found is None:
            raise NotFound(f"{model} has no version {name[:64]!r}", reason="version_not_found", field="version")
        return found

    def servable(self, version: str, variant: Variant) -> bool:
        """Tell whether a variant's entry would serve now, and is what was registered."""
        return servable(_candidate(version, variant), self._entries)

    async def changes(self, model: str, before_id: int, size: int) -> Sequence[Change]:
        """Return changes, newest first; see VersionStore."""
        return await self._store.changes(model, before_id, size)

    async def register(self, wanted: NewVersion, by: str) -> Version:
        """Register a version and return it; the same one again is no change.

        Raises NotFound (no such model), InvalidInput with the field (also DigestMismatch), or VersionExists.
        """
        check_variants(wanted.variants)
        model = self._entry(wanted.model, "model")
        variants = tuple(self._told(model, each, f"variants[{index}]") for index, each in enumerate(wanted.variants))
        digest = content_digest(variants)
        name = version_name(wanted.name, digest)
        version = Version(wanted.model, name, digest, variants, wanted.source, self._clock(), by)
        return await self._changed(lambda: self._add(version))

    async def judge(self, model: str, version: str, judged: Judged, by: str) -> Evaluation:
        """Record what an evaluation said of a variant; what failed serves nobody from then on.

        Raises NotFound, InvalidInput, or Conflict (last_passed_variant) when the champion would be left with nothing.
        """
        if len(judged.report) > LONGEST_REPORT:
            raise InvalidInput(f"a report has at most {LONGEST_REPORT} characters; say where it is", field="report")
        evaluation = Evaluation(judged.verdict, self._clock(), by, judged.report)
        await self._changed(lambda: self._judge(model, version, judged.variant, evaluation))
        return evaluation

    async def assign(self, model: str, expected_revision: int, wish: RolesWish, by: str) -> Roles:
        """Change the roles of a model if they are still those of `expected_revision`, and return the new ones.

        Raises NotFound, InvalidInput with the field, RolesChanged, or NotServable for a new champion that is not ready.
        """
        return await self._changed(lambda: self._assign(model, expected_revision, wish, by))

    async def _add(self, version: Version) -> Version:
        known = self.known(version.model)
        there = known.versions.get(version.name)
        if there is None:
            if len(known.versions) >= MAX_VERSIONS:
                raise Conflict(f"{version.model} has {MAX_VERSIONS} versions", reason="too_many_versions")
            await self._store.commit(self._generation, version)
            return version
        if not there.same_content(version):
            raise VersionExists(
                f"{version.model} has another version {version.name}; versions do not change", field="version"
            )
        return there

    async def _judge(self, model: str, version: str, variant: str, evaluation: Evaluation) -> None:
        if variant not in {each.name for each in self.version(model, version).variants}:
            raise NotFound(f"{version} has no variant {variant[:64]!r}", reason="variant_not_found", field="variant")
        known = self.known(model)
        others = [each for each in known.passed(version) if each.name != variant]
        if evaluation.verdict is not Verdict.PASSED and not others and known.roles.champion == version:
            raise Conflict(
                f"{version} is the champion and has no other variant that passed; roll back first",
                reason="last_passed_variant",
                field="variant",
            )
        before = known.evaluations.get((version, variant))
        await self._store.commit(self._generation, Judgement(model, version, variant, before, evaluation))

    async def _assign(self, model: str, expected_revision: int, wish: RolesWish, by: str) -> Roles:
        known = self.known(model)
        if known.roles.revision != expected_revision:
            raise RolesChanged(f"the roles of {model} are at revision {known.roles.revision}", field="revision")
        roles = next_roles(known, wish)
        if roles.champion != known.roles.champion:
            self._require_servable(model, roles.champion)
        await self._store.commit(self._generation, Assignment(model, known.roles, roles, self._clock(), by))
        return roles

    def _require_servable(self, model: str, champion: str) -> None:
        known = self.known(model)
        if champion:
            ready = first_servable(_candidates(known, champion), self._entries) is not None
        else:
            ready = self._entries[model].state.ready
        if not ready:
            who = f"{model} {champion}".strip()
            raise NotServable(f"{who} is not ready, or its entry runs something else", field="champion")

    async def _changed(self, change: Callable[[], Awaitable[Result]]) -> Result:
        """Decide on what the store has now, again and again while others write, and take over what was done."""
        async with self._turn:
            for _ in range(TRIES):
                await self.refresh()
                try:
                    result = await change()
                except Outdated:
                    continue
                await self.refresh()
                return result
        raise Unavailable("too many write to the store of versions at once", reason="store_busy", retry_after_s=1.0)

    async def _load(self, generation: int) -> None:
        self._known = await self._store.load()
        self._generation = generation
        routes = {name: route_of(name, known) for name, known in self._known.items() if name in self._entries}
        self.traffic.routes = {name: route for name, route in routes.items() if route.divides}

    def _entry(self, name: str, field_: str) -> ServedModel:
        found = self._entries.get(name)
        if found is None:
            raise NotFound(f"there is no model {name[:200]!r}", reason="model_not_found", field=field_)
        return found

    def _told(self, model: ServedModel, variant: Variant, path: str) -> Variant:
        """Return a variant with its digest; raise InvalidInput when its entry cannot stand in for the model."""
        try:
            entry = self._entry(variant.served_by, f"{path}.served_by")
        except NotFound as error:
            raise InvalidInput(error.message, reason="unknown_entry", field=error.field) from error
        asked, runs = model.model, entry.model
        if runs.task is not asked.task or runs.region != asked.region or not asked.capabilities <= runs.capabilities:
            raise InvalidInput(
                f"{variant.served_by} has another task, another region or fewer capabilities than {asked.name}",
                reason="entry_differs",
                field=f"{path}.served_by",
            )
        state = entry.state
        if not variant.digest:
            if not (state.ready or state.digest):
                raise DigestMismatch(
                    f"{variant.served_by} has not told its digest yet; state it", field=f"{path}.digest"
                )
            return replace(variant, digest=state.digest)
        if (state.ready or state.digest) and state.digest != variant.digest:
            runs_now = state.digest or "something without a digest"
            raise DigestMismatch(f"{variant.served_by} runs {runs_now}", field=f"{path}.digest")
        return variant

    def _note(self, *, fresh: bool, why: str = "") -> None:
        if fresh != self._fresh:
            log.log(
                logging.INFO if fresh else logging.ERROR,
                "the store of versions %s",
                "can be read again" if fresh else f"cannot be read ({why}); the latest known roles stay",
            )
        self._fresh = fresh


def route_of(model: str, known: Registered) -> Route:
    """Return how a model's traffic is divided; a version that may not answer is in no part of it."""
    roles = known.roles
    canaries = {name: _candidates(known, name) for name in sorted(roles.canaries)}
    numbers = {name: number for number, name in enumerate(canaries, 1)}
    return Route(
        model,
        champion=_candidates(known, roles.champion) if roles.champion else None,
        canaries=tuple(canaries.values()),
        table=table_of(roles.slots, numbers),
        shadow=_shadow(known, roles.shadow) if roles.shadow_share else (),
        shadow_share=roles.shadow_share,
        split_by=roles.split_by,
    )


def servable(candidate: Candidate, entries: Mapping[str, ServedModel]) -> bool:
    """Tell whether an entry would serve now, and is what was registered."""
    served = entries.get(candidate.served_by)
    return served is not None and served.state.ready and served.state.digest == candidate.digest


def first_servable(candidates: Sequence[Candidate], entries: Mapping[str, ServedModel]) -> Candidate | None:
    """Return the first that would serve now, or None."""
    return next((each for each in candidates if servable(each, entries)), None)


def _candidates(known: Registered, version: str) -> tuple[Candidate, ...]:
    return tuple(_candidate(version, each) for each in known.passed(version))


def _shadow(known: Registered, version: str) -> tuple[Candidate, ...]:
    """Return what may run in the shadow: also what was not judged yet, for that is what shadows are for."""
    variants = [
        each for each in known.versions[version].variants if known.verdict(version, each.name) is not Verdict.FAILED
    ]
    return tuple(_candidate(version, each) for each in sorted(variants, key=lambda each: (each.cost_nanos, each.name)))


def _candidate(version: str, variant: Variant) -> Candidate:
    return Candidate(version, variant.name, variant.served_by, variant.digest)
