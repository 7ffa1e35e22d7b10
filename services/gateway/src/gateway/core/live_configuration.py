"""The configuration in force: followed from its source, swapped as a whole, kept when the next one is wrong."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from servicekit.errors import InvalidInput, PenstockError
from servicekit.telemetry.metrics import counter, gauge

from gateway.core.configuration import Configuration, held_back, mistakes
from gateway.core.models import Catalogue

POLL_S: Final = 1.0

_reloads = counter("penstock_gateway_configuration_reloads", "Configurations taken up or refused", ["outcome"])
_problems = gauge("penstock_gateway_configuration_problems", "Mistakes in the configuration that was read last")
_since_s = gauge("penstock_gateway_configuration_timestamp_seconds", "When the configuration in force was taken up")

log = logging.getLogger(__name__)


class BadConfiguration(InvalidInput):
    """A configuration that cannot be used; `lines` has one mistake each, with the path of its field."""

    default_reason = "bad_configuration"

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


@dataclass(frozen=True, slots=True)
class Report:
    """What is in force since when (seconds since 1970), and what is wrong with what was read last."""

    digest: str
    since_s: float
    problems: tuple[str, ...]


class LiveConfiguration:
    """Holds the configuration in force; whoever serves a request reads `current` once and keeps it for that request."""

    def __init__(
        self,
        first: Configuration,
        read: Callable[[], Awaitable[Configuration | None]],
        catalogue: Callable[[], Catalogue | None],
        apply: Callable[[Configuration], Awaitable[None]],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Take the first configuration, checked in itself.

        `read` returns the next one when there is one, raising BadConfiguration; `catalogue` the models, None while they
        are not known; `apply` puts into the database what belongs there, raising one of servicekit's errors.
        """
        self.current = first
        self._started_with = first
        self._read = read
        self._catalogue = catalogue
        self._apply = apply
        self._now_s = now_s
        self._waiting: Configuration | None = first
        self._checked_against: Catalogue | None = None
        self._checked: Configuration | None = None
        self._unreadable: tuple[str, ...] = ()
        self._standing: tuple[str, ...] = ()
        self._report = Report(first.digest, now_s(), ())
        _since_s.set(self._report.since_s)

    @property
    def report(self) -> Report:
        """What is in force, and what is wrong."""
        return self._report

    async def step(self) -> None:
        """Take up what has changed; what cannot be used is reported, and tried again where that can help."""
        try:
            latest = await self._read()
        except BadConfiguration as error:
            self._unreadable = error.lines
            if self._waiting is not self.current:
                self._waiting = None
        else:
            if latest is not None:
                self._unreadable = ()
                self._waiting = latest
        catalogue = self._catalogue()
        refused = () if self._waiting is None else await self._take_up(self._waiting, catalogue)
        if catalogue is not self._checked_against or self._checked is not self.current:
            self._checked_against, self._checked = catalogue, self.current
            self._standing = (*mistakes(self.current, catalogue), *held_back(self._started_with, self.current))
        self._tell(self._unreadable or refused or self._standing)

    async def watch(self) -> None:
        """Follow the source, until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(POLL_S)

    async def _take_up(self, latest: Configuration, catalogue: Catalogue | None) -> tuple[str, ...]:
        """Put a configuration in force, or return why that cannot be done yet."""
        if latest is not self.current and (wrong := mistakes(latest, catalogue)):
            return tuple(wrong)
        try:
            await self._apply(latest)
        except PenstockError as error:
            return (f"it cannot be applied: {error.message}",)
        self._waiting = None
        if latest is not self.current:
            self.current = latest
            log.info("the configuration %s is in force", latest.digest[:12])
        _reloads.labels("applied").inc()
        self._report = Report(latest.digest, self._now_s(), self._report.problems)
        _since_s.set(self._report.since_s)
        return ()

    def _tell(self, problems: tuple[str, ...]) -> None:
        """Report the problems there are; log them when they are others than before."""
        if problems == self._report.problems:
            return
        for line in problems:
            log.error("configuration: %s", line)
        if problems:
            _reloads.labels("refused").inc()
        else:
            log.info("the configuration has no problem any more")
        self._report = Report(self._report.digest, self._report.since_s, problems)
        _problems.set(len(problems))
