"""Where the copies of the models of one group are, which of them take leases, and where one more finds room."""

from collections.abc import Iterator
from typing import Final

from inference.core.demands import Demand
from inference.core.device import LEAKING, Copy, Device, Room, Stage
from inference.core.popularity import Popularity

WORTH_WAITING: Final = 1.25
"""A busy server is waited for when what would go elsewhere is worth more than so many times what would go there."""


class Copies:
    """The devices of one group and the copies in them."""

    def __init__(self, pinned: frozenset[str], minimum_s: float) -> None:
        """Take which models never go, and how long the others stay at least, in seconds."""
        self.devices: dict[str, Device] = {}
        self.popularity = Popularity()
        self._pinned = pinned
        self._minimum_s = minimum_s
        self._open: dict[str, tuple[Copy, ...]] = {}

    def open(self, model: str) -> tuple[Copy, ...]:
        """Return the copies that take leases."""
        return self._open.get(model, ())

    def refresh(self, model: str) -> None:
        """Work out again which copies of a model take leases: an ailing server's only where there is no other."""
        ready = [
            (device, copy)
            for device in self.devices.values()
            if (copy := device.copies.get(model)) is not None and copy.stage is Stage.READY
        ]
        sound = tuple(copy for device, copy in ready if not device.ailment)
        self._open[model] = sound or tuple(copy for _, copy in ready)

    def refresh_all(self, device: Device) -> None:
        """Do so for every model of a device."""
        for model in device.copies:
            self.refresh(model)

    def down(self, device: Device) -> None:
        """Forget what a server has, because it is down or away."""
        models = list(device.copies)
        device.forget()
        for model in models:
            self.refresh(model)

    def usable(self) -> list[Device]:
        """Return the devices that may load: those that ail only where there is no other, and never a stuck one."""
        alive = [device for device in self.devices.values() if device.alive]
        return [device for device in alive if not device.ailment] or [
            device for device in alive if device.ailment == LEAKING
        ]

    def largest_bytes(self) -> int:
        """Return what the largest model may take that can find room at all."""
        return max((device.budget_bytes - self._fixed_bytes(device) for device in self.usable()), default=0)

    def room_for(self, demand: Demand, bytes_: int, now: float) -> Room | None:
        """Return the best room for what is wanted, or None when there is none now."""
        rooms = [
            room
            for device in self.usable()
            if device.address not in demand.tried
            and device.takes(demand.model, now)
            and (room := device.room_for(bytes_, () if demand.extra else self.evictable(device, now))) is not None
        ]
        if not rooms:
            return None
        best = min(rooms, key=_price)
        if best.device.move is None:
            return best
        idle = [room for room in rooms if room.device.move is None]
        second = min(idle, key=_price) if idle else None
        if second is not None and not second.waits and second.cost <= WORTH_WAITING * best.cost:
            return second
        return None

    def evictable(self, device: Device, now: float) -> Iterator[tuple[float, Copy]]:
        """Yield the copies that may go, each with what is lost with it: nothing where another copy takes its leases."""
        for copy in device.copies.values():
            stays = copy.model in self._pinned or now - copy.ready_at < self._minimum_s
            if copy.stage is Stage.READY and not stays:
                alone = all(each is copy for each in self.open(copy.model))
                yield self.popularity.worth(copy.model) if alone else 0.0, copy

    def _fixed_bytes(self, device: Device) -> int:
        return device.unexplained_bytes + sum(
            copy.bytes_ for copy in device.copies.values() if copy.model in self._pinned or copy.stage is Stage.STUCK
        )


def _price(room: Room) -> tuple[bool, float, bool, int]:
    return room.waits, room.cost, room.device.move is not None, -room.device.free_bytes
