"""Decides which model is loaded next, on which server, and who goes for it; it never waits for anything."""

from collections.abc import Callable
from functools import partial
from typing import Final

from servicekit.errors import PenstockError, Unavailable

from inference.core.copies import Copies
from inference.core.demands import Demand
from inference.core.device import Copy, Device, Move, Room, Stage
from inference.core.footprints import Footprints
from inference.core.policy import Policy
from inference.core.ports import BACKEND_FAILED
from inference.core.residency_ports import LoadFailed

RETRY_AFTER_S: Final = 1.0
SPREAD_PERIOD_S: Final = 1.0


class Planner:
    """The demands of one group, and what its devices are to do about them."""

    def __init__(self, policy: Policy, copies: Copies, footprints: Footprints, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._copies = copies
        self._footprints = footprints
        self._clock = clock
        self._demands: dict[str, Demand] = {}
        self._spread_from = 0.0

    @property
    def busy(self) -> bool:
        """Whether anything is wanted that is not there."""
        return bool(self._demands)

    def demand(self, model: str) -> Demand:
        """Return the demand for a model, which is made if there was none."""
        demand = self._demands.get(model)
        if demand is None:
            demand = self._demands[model] = Demand(model)
        return demand

    def spread(self, model: str) -> None:
        """Ask for one more copy of a model, if there is room; not more often than once in a while."""
        now = self._clock()
        if now >= self._spread_from and model not in self._demands:
            self._spread_from = now + SPREAD_PERIOD_S
            self.want(model, SPREAD_PERIOD_S, extra=True)

    def want(self, model: str, for_s: float, *, extra: bool = False) -> None:
        """Ask for a model that nobody waits for."""
        if model not in self._demands:
            demand = self.demand(model)
            demand.extra = extra
            demand.wanted_until(self._clock() + for_s)

    def expected_s(self, demand: Demand) -> float:
        """Return how many seconds it will take, as far as is known: its own load, after those before it."""
        own_s = self._footprints.load_s(demand.model)
        if demand.device is not None:
            return max(0.0, own_s - (self._clock() - demand.began))
        before_s = 0.0
        for other in self._demands.values():
            if other is demand:
                break
            before_s += self._footprints.load_s(other.model)
        return own_s + before_s / max(1, len(self._copies.usable()))

    def plan(self) -> None:
        """Give every device that is free something to do, if there is anything."""
        now = self._clock()
        for demand in list(self._demands.values()):
            if demand.device is None:
                self._place(demand, now)
        for device in self._copies.usable():
            if device.move is None and not device.reserved_for:
                self._furnish(device, now)

    def arrived(self, copy: Copy) -> None:
        """Hand a copy that has become ready to those who wait for it."""
        self._copies.refresh(copy.model)
        demand = self._demands.pop(copy.model, None)
        if demand is not None:
            self._reopen(demand)
            demand.grant(copy)

    def unplaced(self, device: Device, model: str, why: str = "") -> None:
        """Look for a place again, since this device could not do it; and for another one when it is said why."""
        demand = self._demands.get(model)
        if demand is not None:
            if demand.device is device:
                demand.device = None
            if why:
                demand.tried[device.address] = why

    def down(self, device: Device) -> None:
        """Forget a device that does not answer; what was to come there comes elsewhere."""
        for demand in self._demands.values():
            if demand.device is device:
                demand.device = None
            if demand.room is not None and demand.room.device is device:
                demand.room = None
        self._copies.down(device)

    def _place(self, demand: Demand, now: float) -> None:
        if demand.abandoned(now):
            self._drop(demand)
            return
        failure = self._hopeless(demand, now)
        if failure is not None:
            self._drop(demand)
            demand.fail(failure)
            return
        emptied = self._emptied(demand)
        if emptied is not None:
            self._start(emptied.device, emptied.victims, demand.model)
            return
        room = self._copies.room_for(demand, self._footprints.bytes_of(demand.model), now)
        if room is None:
            if demand.extra:
                self._drop(demand)
        elif not room.waits:
            self._reopen(demand)
            self._start(room.device, room.victims, demand.model)
        elif demand.room is None:
            demand.close(room)
            self._refresh(room.victims)

    def _emptied(self, demand: Demand) -> Room | None:
        """Return the room that was waited for, once nobody is left in it."""
        room = demand.room
        if room is None or room.device.move is not None or any(copy.leases for copy in room.victims):
            return None
        demand.room, room.device.reserved_for = None, ""
        gone = tuple(copy for copy in room.victims if copy.stage is Stage.CLOSING)
        return Room(room.device, gone, waits=False, cost=room.cost)

    def _hopeless(self, demand: Demand, now: float) -> Callable[[], PenstockError] | None:
        """Return how to make the error for those who wait, when no server can be expected to load the model now."""
        model, usable = demand.model, self._copies.usable()
        if not usable:
            if any(not device.seen for device in self._copies.devices.values()):
                return None
            message = f"no server of {model} answers"
            return partial(Unavailable, message, reason=BACKEND_FAILED, retry_after_s=RETRY_AFTER_S)
        bytes_, largest = self._footprints.bytes_of(model), self._copies.largest_bytes()
        if bytes_ > largest:
            return partial(LoadFailed, f"{model} takes {bytes_} bytes of memory, and {largest} can be made free")
        reasons = [device.refused(model, now) or demand.tried.get(device.address, "") for device in usable]
        if not all(reasons):
            return None
        retry_after_s = min(device.refused_for_s(model, now) for device in usable)
        return partial(LoadFailed, reasons[0], retry_after_s=max(RETRY_AFTER_S, retry_after_s))

    def _furnish(self, device: Device, now: float) -> None:
        """Load what belongs on the device whoever asks, and take from it what is too much."""
        for model in self._policy.pinned:
            if device.takes(model, now):
                room = device.room_for(self._footprints.bytes_of(model), self._copies.evictable(device, now))
                if room is not None and not room.waits:
                    self._start(device, room.victims, model)
                    return
        while device.to_warm:
            model = device.to_warm.pop(0)
            if device.takes(model, now) and self._footprints.bytes_of(model) <= device.free_bytes:
                self._start(device, (), model)
                return
        room = device.room_for(0, self._copies.evictable(device, now))
        if room is not None and room.victims and not room.waits:
            self._start(device, room.victims, "")

    def _start(self, device: Device, victims: tuple[Copy, ...], model: str) -> None:
        """Make it so: from here on nobody gets a lease of those who go, and the room is taken."""
        for copy in victims:
            copy.stage = Stage.UNLOADING
        self._refresh(victims)
        if model:
            device.copies[model] = Copy(model, device.address, self._footprints.bytes_of(model))
        device.move = Move(victims, model)
        device.wake.set()
        demand = self._demands.get(model)
        if demand is not None and demand.device is None:
            demand.device, demand.began = device, self._clock()

    def _drop(self, demand: Demand) -> None:
        self._demands.pop(demand.model, None)
        self._reopen(demand)

    def _reopen(self, demand: Demand) -> None:
        """Let leases again onto those who were to go."""
        for copy in demand.reopen():
            self.arrived(copy)

    def _refresh(self, copies: tuple[Copy, ...]) -> None:
        for copy in copies:
            self._copies.refresh(copy.model)
