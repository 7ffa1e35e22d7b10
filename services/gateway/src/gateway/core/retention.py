"""Deletes old rows of the ledger a few at a time, so that nobody else waits for it; the sums stay."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from servicekit.errors import Unavailable

from gateway.core.ledger_ports import LedgerStore

DAY_S: Final = 86_400.0
BATCH: Final = 100
PAUSE_S: Final = 0.08
PERIOD_S: Final = 3600.0
log = logging.getLogger(__name__)


class Retention:
    """Keeps the rows of `keep_days` days. Several processes may do this at once: a row is deleted by one of them."""

    def __init__(
        self, store: LedgerStore, keep_days: int, clock: Callable[[], float] = time.time, pause_s: float = PAUSE_S
    ) -> None:
        self._store = store
        self._keep_s = keep_days * DAY_S
        self._clock = clock
        self._pause_s = pause_s

    async def prune(self) -> int:
        """Delete what is too old, pausing after each batch; return how many rows. Raises Unavailable."""
        deleted = 0
        while batch := await self._store.prune(self._clock() - self._keep_s, BATCH):
            deleted += batch
            await asyncio.sleep(self._pause_s)
        return deleted

    async def run(self) -> None:
        """Prune every hour until cancelled."""
        while True:
            try:
                if deleted := await self.prune():
                    log.info("%d old rows of the ledger are deleted", deleted)
            except Unavailable as error:
                log.warning("old rows of the ledger stay for now: %s", error.message)
            await asyncio.sleep(PERIOD_S)
