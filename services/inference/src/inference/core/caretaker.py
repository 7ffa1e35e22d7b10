"""Looks after one server at a time: carries out what is planned for it, and compares what it has with what is known."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from servicekit.errors import PenstockError

from inference.core.copies import Copies
from inference.core.device import LEAKING, STUCK_LOADING, STUCK_UNLOADING, Copy, Device, Stage
from inference.core.footprints import Footprints
from inference.core.mover import ASK_TIMEOUT_S, Mover
from inference.core.planner import Planner
from inference.core.policy import Policy
from inference.core.residency_ports import Connect, LoadFailed, Memory, ModelRepository, Status

LOOK_PERIOD_S: Final = 2.0
STUCK: Final = (STUCK_LOADING, STUCK_UNLOADING)
log = logging.getLogger(__name__)


class Caretaker:
    """Serves the devices of one group; each does one thing at a time."""

    def __init__(
        self, policy: Policy, copies: Copies, planner: Planner, mover: Mover, footprints: Footprints, connect: Connect
    ) -> None:
        self._policy = policy
        self._copies = copies
        self._planner = planner
        self._mover = mover
        self._footprints = footprints
        self._connect = connect
        self._measures = mover.measures

    async def serve(self, device: Device, changed: Callable[[], None]) -> None:
        """Carry out what is planned for a device and look at it in between, until cancelled; tell after each step."""
        async with self._connect(device.address) as repository:
            while True:
                device.wake.clear()
                try:
                    await self._step(device, repository)
                except PenstockError as error:
                    if device.alive or not device.seen:
                        log.warning("%s does not answer: %s", device.address, error.message)
                    self._planner.down(device)
                device.seen = True
                changed()
                if device.move is None:
                    await until_set(device.wake, LOOK_PERIOD_S)

    async def _step(self, device: Device, repository: ModelRepository) -> None:
        move = device.move
        if move is None:
            await self._look(device, repository)
            return
        for victim in move.victims:
            await self._mover.unload(device, repository, victim)
            self._measures.evicted(victim.model)
        if move.model:
            await self._load(device, repository, device.copies[move.model])
        device.move = None
        self._copies.refresh_all(device)
        self._tell(device)

    async def _load(self, device: Device, repository: ModelRepository, copy: Copy) -> None:
        """Load what the room was made for, and hand it to those who wait."""
        if device.ailment in STUCK or device.free_bytes < 0:  # a model that went has left its memory behind
            self._removed(device, copy)
            self._planner.unplaced(device, copy.model)
            return
        try:
            await self._mover.load(device, repository, copy)
        except LoadFailed as error:
            self._failed(device, copy, error)
        else:
            device.refusals.pop(copy.model, None)
            self._planner.arrived(copy)

    def _failed(self, device: Device, copy: Copy, error: LoadFailed) -> None:
        log.error("%s did not load %s: %s", device.address, copy.model, error.message)
        self._measures.load_failed(copy.model)
        device.refuse(copy.model, error.message, self._mover.now())
        if copy.stage is not Stage.STUCK:
            self._removed(device, copy)
        self._planner.unplaced(device, copy.model, error.message)

    async def _look(self, device: Device, repository: ModelRepository) -> None:
        statuses = await repository.index(ASK_TIMEOUT_S)
        memory = await repository.memory(ASK_TIMEOUT_S)
        if device.move is not None:
            return  # something was planned meanwhile: what was seen is old
        self._compare(device, statuses)
        self._weigh(device, memory)
        if not device.alive:
            log.info("%s answers and has %s", device.address, ", ".join(device.copies) or "no model")
            device.alive = True
            device.to_warm = list(self._policy.warm)
        for copy in [copy for copy in device.copies.values() if copy.stage is Stage.DOUBTED]:
            await self._examine(device, repository, copy)
        self._recover(device)
        self._copies.refresh_all(device)
        self._relieve(device)
        self._tell(device)

    def _compare(self, device: Device, statuses: Mapping[str, Status]) -> None:
        """Drop what the server does not have any more, and take in what it has beyond."""
        for copy in list(device.copies.values()):
            status = statuses.get(copy.model, Status.ABSENT)
            if copy.stage is Stage.STUCK and status is Status.READY:
                copy.stage = Stage.DOUBTED
            elif status is Status.ABSENT or (status is not Status.READY and copy.stage is not Stage.STUCK):
                self._removed(device, copy)
        for model, status in statuses.items():
            if model in self._policy.models and model not in device.copies and status is not Status.ABSENT:
                copy = Copy(model, device.address, self._footprints.bytes_of(model))
                copy.stage = Stage.DOUBTED if status is Status.READY else Stage.STUCK
                device.copies[model] = copy

    def _weigh(self, device: Device, memory: Memory | None) -> None:
        """Take in what the server holds now."""
        if memory is None:
            return
        known = self._footprints.known()
        for copy in device.copies.values():
            measured = memory.models.get(copy.model, 0)
            if measured:
                copy.bytes_ = self._footprints.learn_bytes(copy.model, measured)
            copy.measured = copy.measured or bool(measured) or copy.model in known
        device.measured(memory)

    async def _examine(self, device: Device, repository: ModelRepository, copy: Copy) -> None:
        """Let leases onto a copy in doubt, or take it out when its answers are wrong."""
        wrong = await self._mover.wrong_with(device, copy)
        if not wrong:
            copy.ready_at = self._mover.now()
            copy.stage = Stage.READY
            self._planner.arrived(copy)
        elif not copy.leases:
            await self._mover.unload(device, repository, copy)
            self._failed(device, copy, LoadFailed(wrong))

    def _recover(self, device: Device) -> None:
        """Let a device be well again when what ailed it is over."""
        stuck = any(copy.stage is Stage.STUCK for copy in device.copies.values())
        leaks = device.unexplained_bytes > self._policy.leak_limit_bytes
        if (device.ailment in STUCK and not stuck) or (device.ailment == LEAKING and not leaks):
            log.info("%s is well again after %s", device.address, device.ailment)
            device.ailment = ""
            self._measures.ails(device.address, "")

    def _relieve(self, device: Device) -> None:
        """Have the models in use on an ailing device loaded on others, so that it can be restarted."""
        if device.ailment and any(not other.ailment for other in self._copies.usable()):
            for copy in device.copies.values():
                if copy.stage is Stage.READY and copy.leases and copy in self._copies.open(copy.model):
                    self._planner.want(copy.model, 2 * LOOK_PERIOD_S)

    def _removed(self, device: Device, copy: Copy) -> None:
        copy.stage = Stage.GONE
        device.copies.pop(copy.model, None)
        self._copies.refresh(copy.model)

    def _tell(self, device: Device) -> None:
        self._measures.holds(device.address, device.charged_bytes, device.unexplained_bytes, self._policy.budget_bytes)


async def until_set(event: asyncio.Event, timeout_s: float) -> None:
    """Wait until an event is set, but not longer than so many seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
