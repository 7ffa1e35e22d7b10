"""Brings a model into the memory of a server and takes one out of it, and does not believe it before it is measured."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from servicekit.errors import PenstockError, TimedOut

from inference.core.device import LEAKING, STUCK_LOADING, STUCK_UNLOADING, Copy, Device, Stage
from inference.core.footprints import Footprints
from inference.core.policy import Patience
from inference.core.ports import BackendLost
from inference.core.residency_measures import ResidencyMeasures
from inference.core.residency_ports import LoadFailed, Memory, ModelRepository, Status

POLL_S: Final = 0.1
ASK_TIMEOUT_S: Final = 3.0
FREED: Final = 0.9
"""Of a footprint so much has to be measured free before it counts as given back: a server keeps a little for itself."""
Prove = Callable[[str, str], Awaitable[str]]
"""Says what is wrong with a model's answers at an address, or nothing when they are right."""
log = logging.getLogger(__name__)


async def unproven(_model: str, _address: str) -> str:
    """Take every loaded model for right."""
    return ""


class Mover:
    """Loads and unloads, for every device of one group; a device does one thing at a time."""

    def __init__(
        self,
        footprints: Footprints,
        patience: Patience,
        prove: Prove,
        measures: ResidencyMeasures,
        clock: Callable[[], float],
    ) -> None:
        self._footprints = footprints
        self._patience = patience
        self._prove = prove
        self.measures = measures
        self._clock = clock

    async def load(self, device: Device, repository: ModelRepository, copy: Copy) -> None:
        """Load a copy that is charged already; it is READY on return.

        Raises LoadFailed (it did not come, and takes nothing), or BackendLost. A load over its time leaves the copy
        STUCK: it stays charged, and the device ails until the server is done with it.
        """
        await repository.check(copy.model)
        before = await repository.memory(ASK_TIMEOUT_S)
        start = self._clock()
        try:
            await repository.load(copy.model, self._patience.load_s)
        except TimedOut as error:
            copy.stage = Stage.STUCK
            self._ail(device, STUCK_LOADING, copy.model)
            raise LoadFailed(f"{copy.model} did not load within {self._patience.load_s:g} s") from error
        took_s = self._clock() - start
        self._footprints.learn_load(copy.model, took_s)
        self.measures.loaded(copy.model, took_s)
        self._charge(device, copy, before, await repository.memory(ASK_TIMEOUT_S))
        log.info("%s loaded %s in %.2f s: %d bytes", device.address, copy.model, took_s, copy.bytes_)
        wrong = await self.wrong_with(device, copy)
        if wrong:
            await self.unload(device, repository, copy)
            raise LoadFailed(wrong)
        copy.ready_at = self._clock()
        copy.stage = Stage.READY

    async def unload(self, device: Device, repository: ModelRepository, copy: Copy) -> None:
        """Unload a copy that nobody holds, and stop charging it once its memory is measured free; raise BackendLost.

        When the server does not let go of the model or of its memory in time, the device ails.
        """
        copy.stage = Stage.UNLOADING
        start = self._clock()
        gone = await self._gone(repository, copy.model)
        if not gone:
            copy.stage = Stage.STUCK
            self._ail(device, STUCK_UNLOADING, copy.model)
            return
        copy.stage = Stage.GONE
        await self._freed(device, repository, copy)
        self.measures.unloaded(copy.model, self._clock() - start)
        log.info("%s unloaded %s in %.2f s", device.address, copy.model, self._clock() - start)

    async def wrong_with(self, device: Device, copy: Copy) -> str:
        """Return why a loaded copy must not stay, or nothing; raise BackendLost."""
        if copy.bytes_ > device.budget_bytes:
            return f"{copy.model} takes {copy.bytes_} bytes; its server may hold {device.budget_bytes}"
        try:
            wrong = await self._prove(copy.model, device.address)
        except BackendLost:
            raise
        except PenstockError as error:
            wrong = error.message
        return f"{copy.model} answers wrongly: {wrong}" if wrong else ""

    def now(self) -> float:
        """Return the moment, in seconds."""
        return self._clock()

    async def _gone(self, repository: ModelRepository, model: str) -> bool:
        """Ask for the unload and wait until the server does not list the model any more; a late answer is no error."""
        try:
            async with asyncio.timeout(self._patience.unload_s):
                await repository.unload(model, self._patience.unload_s)
                while True:
                    statuses = await repository.index(ASK_TIMEOUT_S)
                    if statuses.get(model, Status.ABSENT) is Status.ABSENT:
                        return True
                    await asyncio.sleep(POLL_S)
        except (TimeoutError, TimedOut, LoadFailed):
            return False

    async def _freed(self, device: Device, repository: ModelRepository, copy: Copy) -> None:
        """Keep the charge until the memory is back; what does not come back stays counted as unexplained."""
        allowed = device.unexplained_bytes + int((1 - FREED) * copy.bytes_)
        end = self._clock() + self._patience.free_s
        memory = await repository.memory(ASK_TIMEOUT_S)
        while memory is not None and (device.unexplained_in(memory, copy) or 0) > allowed and self._clock() < end:
            await asyncio.sleep(POLL_S)
            memory = await repository.memory(ASK_TIMEOUT_S)
        device.copies.pop(copy.model, None)
        if memory is None:
            return
        device.measured(memory)
        if device.unexplained_bytes > allowed:
            log.warning("%s kept %d bytes after %s", device.address, device.unexplained_bytes - allowed, copy.model)
            if device.unexplained_bytes > device.leak_limit_bytes:
                self._ail(device, LEAKING, copy.model)

    def _charge(self, device: Device, copy: Copy, before: Memory | None, after: Memory | None) -> None:
        """Charge what was measured: the model's own bytes where they are known, else what the server has grown by."""
        if after is None:
            return
        grown = after.used_bytes - before.used_bytes if before else 0
        copy.bytes_ = self._footprints.learn_bytes(copy.model, after.models.get(copy.model, grown))
        copy.measured = True
        device.measured(after)

    def _ail(self, device: Device, ailment: str, model: str) -> None:
        device.ailment = ailment
        self.measures.ails(device.address, ailment)
        log.error("%s takes no more requests (%s, after %s): it should be restarted", device.address, ailment, model)
