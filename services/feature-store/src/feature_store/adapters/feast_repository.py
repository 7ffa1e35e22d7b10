"""Keeps the catalogue true to the Feast repository, without Feast in this process."""

import asyncio
import logging
import sys
from contextlib import suppress
from pathlib import Path

from servicekit.telemetry.metrics import counter

from feature_store.adapters import catalogue_file
from feature_store.adapters.catalogue_file import ONLINE_FILE, Sources
from feature_store.core.catalogue import Catalogue

_REFRESHES = counter("penstock_feature_store_catalogue_refreshes", "Runs of Feast, by outcome", labels=("outcome",))
_WORDS_OF_FAILURE = 1_000
log = logging.getLogger(__name__)


class RepositoryRejected(RuntimeError):
    """Feast does not accept the repository; the message ends with what it said."""


class FeastRepository:
    """Runs Feast in a child process when definitions or registry changed, and holds the catalogue that results."""

    def __init__(self, repository: Path, state: Path, sample_tenant: str, check_s: float) -> None:
        """Take the folders of the repository and of its state, and the seconds between two looks for changes."""
        self._repository = repository
        self._state = state
        self._sample_tenant = sample_tenant
        self._check_s = check_s
        self._tried: Sources | None = None
        self._catalogue: Catalogue | None = None

    def catalogue(self) -> Catalogue:
        """Return the catalogue in force. `load` has to have been awaited."""
        assert self._catalogue is not None
        return self._catalogue

    async def load(self) -> None:
        """Make the catalogue current, running Feast only when it has to; raise RepositoryRejected."""
        self._tried = self._sources()
        kept = catalogue_file.read(self._state)
        if kept is None or kept[0] != self._tried or not (self._state / ONLINE_FILE).is_file():
            await self._run_feast()
            kept = catalogue_file.read(self._state)
            assert kept is not None
        self._tried, self._catalogue = kept

    async def watch(self) -> None:
        """Follow changes of definitions or registry for ever; on failure the last good catalogue stays in force."""
        while True:
            await asyncio.sleep(self._check_s)
            if self._sources() == self._tried:
                continue
            try:
                await self.load()
            except RepositoryRejected:
                self._tried = self._sources()  # so that it is not tried again before somebody changes something
                _REFRESHES.labels("failed").inc()
                log.exception("the last good catalogue stays in force")
            else:
                _REFRESHES.labels("loaded").inc()
                log.info("catalogue of generation %s is in force", self.catalogue().generation[:12])

    def _sources(self) -> Sources:
        repository = catalogue_file.digest_of_repository(self._repository)
        return Sources(repository, catalogue_file.digest_of_registry(self._state))

    async def _run_feast(self) -> None:
        log.info("applying the definitions of %s with Feast", self._repository)
        arguments = ("--repository", self._repository, "--state", self._state, "--sample-tenant", self._sample_tenant)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "feature_store.adapters.feast_apply", *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            _, said = await child.communicate()
        finally:
            with suppress(ProcessLookupError):
                child.kill()
        if child.returncode != 0:
            words = said.decode(errors="replace").strip()[-_WORDS_OF_FAILURE:]
            raise RepositoryRejected(f"Feast rejects {self._repository}: {words}")
