"""A model that is wanted and not there: who waits for it, until when, and where it is being loaded."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from servicekit.errors import PenstockError

from inference.core.device import Copy, Device, Room, Stage


@dataclass(slots=True)
class Demand:
    """One per model, whoever wants it: so a burst of requests causes one load.

    `extra` is a demand for one more copy, which is dropped rather than that another model goes for it.
    """

    model: str
    until: float = 0.0
    extra: bool = False
    device: Device | None = None
    began: float = 0.0
    room: Room | None = None
    tried: dict[str, str] = field(default_factory=dict)
    """Servers on which the load has failed, each with the reason."""
    waiters: list[asyncio.Future[Copy]] = field(default_factory=list)

    def wanted_until(self, moment: float) -> None:
        """Note that somebody will still want it then."""
        self.until = max(self.until, moment)

    def abandoned(self, now: float) -> bool:
        """Tell whether nobody waits for it, nor is thought to come again for it."""
        return now > self.until and all(turn.done() for turn in self.waiters)

    def close(self, room: Room) -> None:
        """Let no new leases onto those who are to go, and keep their place for this model."""
        self.room = room
        room.device.reserved_for = self.model
        for copy in room.victims:
            copy.stage = Stage.CLOSING

    def reopen(self) -> tuple[Copy, ...]:
        """Give up the room that was waited for; return the copies that may be leased again."""
        room, self.room = self.room, None
        if room is None:
            return ()
        if room.device.reserved_for == self.model:
            room.device.reserved_for = ""
        back = tuple(copy for copy in room.victims if copy.stage is Stage.CLOSING)
        for copy in back:
            copy.stage = Stage.READY
        return back

    def grant(self, copy: Copy) -> None:
        """Give everyone who waits a lease, before anyone could evict the copy."""
        for turn in self.waiters:
            if not turn.done():
                copy.leases += 1
                turn.set_result(copy)

    def fail(self, failure: Callable[[], PenstockError]) -> None:
        """Tell everyone who waits why it will not come, each with an error of its own."""
        for turn in self.waiters:
            if not turn.done():
                turn.set_exception(failure())
