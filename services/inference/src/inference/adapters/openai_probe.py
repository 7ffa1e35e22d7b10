"""Looks whether an upstream's model answers, by a chat of one token."""

import time
from collections.abc import Callable
from typing import Final

from servicekit.errors import PenstockError, TimedOut

from inference.core.conversation import Turn
from inference.core.generation import Order, Sampling
from inference.core.golden_cases import Golden
from inference.core.ports import BACKEND_FAILED, SILENT, Generator, ModelState

QUESTION: Final = Order([Turn("user", "Say yes.")], Sampling(max_tokens=1))
BUSY: Final = frozenset({"rate_limited", "queue_full"})
"""Who says so lives."""
PATIENCE_S: Final = 30.0
"""A model that thinks first takes its time, even for one token."""
LEAST_S: Final = 1.0
"""A probe may cost money: however often calls fail, it is not asked again within so many seconds."""


class OpenAIProber:
    """Asks one model of an upstream; that is off unless the catalogue declares it."""

    def __init__(
        self,
        generator: Generator,
        version: str,
        golden: Golden | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what asks, the model's name there, the golden cases if there are any, and a clock in seconds."""
        self._generator = generator
        self._ready = ModelState(ready=True, version=version, golden=golden)
        self._last: tuple[float, ModelState] | None = None
        self._clock = clock

    async def probe(self, timeout_s: float) -> ModelState:
        """Return the state, within PATIENCE_S if that is longer; what went wrong is its detail."""
        now = self._clock()
        if self._last is None or now - self._last[0] >= LEAST_S:
            self._last = now, await self._ask(max(timeout_s, PATIENCE_S))
        return self._last[1]

    async def _ask(self, timeout_s: float) -> ModelState:
        try:
            await self._generator.complete(QUESTION, timeout_s)
        except TimedOut:
            return ModelState(ready=False, reason=BACKEND_FAILED, detail=SILENT)
        except PenstockError as error:
            if error.reason not in BUSY:
                return ModelState(ready=False, reason=BACKEND_FAILED, detail=error.message[:200])
        return self._ready
