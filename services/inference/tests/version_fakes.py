"""Fakes of what versions are kept in, and ready-made versions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from inference.core.ports import ModelState
from inference.core.registry import Judged, NewVersion, Registry
from inference.core.served_model import ServedModel
from inference.core.shadow import Comparison
from inference.core.version_ports import Assignment, Change, Imported, Judgement, Outdated, ShadowReport, Write
from inference.core.versions import Registered, RolesWish, Variant, Verdict, Version
from servicekit.errors import NotFound, Unavailable

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def digest(number: int) -> str:
    """Return a digest."""
    return f"sha256:{number:064x}"


class FakeVersionStore:
    """Keeps everything in memory; `away` makes it fail, and `interrupt` runs once before the next commit."""

    def __init__(self) -> None:
        self.known: dict[str, Registered] = {}
        self.number = 0
        self.journal: list[Change] = []
        self.compared: list[Comparison] = []
        self.away = False
        self.loads = 0
        self.interrupt: Any = None

    async def generation(self) -> int:
        self._reach()
        return self.number

    async def load(self) -> Mapping[str, Registered]:
        self._reach()
        self.loads += 1
        return dict(self.known)

    async def commit(self, generation: int, write: Write) -> None:
        self._reach()
        if self.interrupt is not None:
            interrupt, self.interrupt = self.interrupt, None
            await interrupt()
        if generation != self.number:
            raise Outdated
        self.number += 1
        known = self.known.get(write.model, Registered())
        if isinstance(write, Version):
            self.known[write.model] = replace(known, versions={**known.versions, write.name: write})
            self._note(write.model, write.registered_at, write.registered_by, "register")
        elif isinstance(write, Judgement):
            judged = {**known.evaluations, (write.version, write.variant): write.after}
            self.known[write.model] = replace(known, evaluations=judged)
            self._note(write.model, write.after.at, write.after.by, "evaluate")
        else:
            assert isinstance(write, Assignment)
            self.known[write.model] = replace(known, roles=write.after)
            self._note(write.model, write.at, write.by, "assign")

    async def changes(self, model: str, before_id: int, size: int) -> Sequence[Change]:
        self._reach()
        found = [each for each in reversed(self.journal) if not model or each.model == model]
        return [each for each in found if not before_id or each.id < before_id][:size]

    async def keep(self, comparisons: Sequence[Comparison]) -> None:
        self._reach()
        self.compared += comparisons

    async def report(self, model: str, shadow: str) -> ShadowReport:
        self._reach()
        found = [each for each in self.compared if (each.model, each.shadow) == (model, shadow)]
        same = sum(each.difference.same for each in found)
        failed = sum(bool(each.failure) for each in found)
        diffs = [each.difference.max_abs_diff for each in found if each.difference.max_abs_diff is not None]
        return ShadowReport(len(found), same, failed, max(diffs, default=None), 0.0, 0.0, [])

    def _note(self, model: str, at: datetime, by: str, action: str) -> None:
        self.journal.append(Change(len(self.journal) + 1, model, at, by, action, "{}", "{}"))

    def _reach(self) -> None:
        if self.away:
            raise Unavailable("the store is away", reason="version_store_failed")


class FakeModelRegistry:
    """Knows the versions it was given, by URI."""

    def __init__(self, known: Mapping[str, Imported]) -> None:
        self._known = known

    async def resolve(self, uri: str) -> Imported:
        if uri not in self._known:
            raise NotFound("no such version", reason="version_not_found", field="uri")
        return self._known[uri]


class SpellingLabels:
    """Writes on a message what it is told to say."""

    def asked(self, request: bytes, model: str) -> bytes:
        return request + b">" + model.encode()

    def answered(self, response: bytes, model: str, version: str) -> bytes:
        return response + f"<{model}:{version}".encode()

    streamed = answered

    def described(self, response: bytes, model: str) -> bytes:
        return response + f"<{model}".encode()

    configured = described


def running(served: ServedModel, number: int, *, ready: bool = True) -> ServedModel:
    """Let an entry run the content of a number, and be ready or not."""
    served.state = ModelState(ready=ready, version="1", digest=digest(number))
    return served


async def registered(registry: Registry, model: str, name: str, *entries: str, passed: bool = True) -> Version:
    """Register a version with a variant for each entry, the first the cheapest, and let them pass their evaluation."""
    variants = [Variant(f"v{index}", entry, "", index) for index, entry in enumerate(entries)]
    version = await registry.register(NewVersion(model, name, variants), "tester")
    if passed:
        for each in variants:
            await registry.judge(model, name, Judged(each.name, Verdict.PASSED), "tester")
    return version


async def assigned(registry: Registry, model: str, **wish: Any) -> None:
    """Give a model the roles that are wished for, whatever they are now."""
    await registry.assign(model, registry.known(model).roles.revision, RolesWish(**wish), "tester")
