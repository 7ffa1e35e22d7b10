"""A part of the slots is kept for interactive requests, as long as there are any; nobody else's wait is for ever."""

import asyncio

from inference.core.admission import Admission
from inference.core.catalogue import QueueLimits
from servicekit.load.lane import Slot
from servicekit.load.priority import Priority
from servicekit.virtual_time import VirtualLoop, in_virtual_time

BATCH, STANDARD, INTERACTIVE = Priority
SLOTS, KEPT = 32, 2


class Hall:
    """Enters requests of a class and holds what they get."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.asking = STANDARD
        self.admission = Admission("m", QueueLimits(SLOTS, 100), lambda: ("acme", self.asking), loop.time)
        self.held: list[Slot] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, priority: Priority, count: int = 1) -> None:
        self.asking = priority
        self.tasks += [asyncio.create_task(self._enter()) for _ in range(count)]
        await asyncio.sleep(0)

    async def _enter(self) -> None:
        self.held.append(await self.admission.enter(1e6))

    def leave(self, priority: Priority) -> None:
        slot = next(each for each in self.held if each.priority is priority)
        self.held.remove(slot)
        self.admission.leave(slot)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def test_lesser_classes_leave_room_while_there_is_interactive_work() -> None:
    async def story(loop: VirtualLoop) -> None:
        hall = Hall(loop)
        await hall.ask(INTERACTIVE, 8)
        await asyncio.sleep(60.0)
        await hall.ask(STANDARD, 40)
        assert hall.admission.running == SLOTS - KEPT
        await hall.ask(INTERACTIVE, KEPT)
        assert hall.admission.running == SLOTS
        await asyncio.sleep(1.0)
        hall.leave(STANDARD)
        hall.leave(STANDARD)
        await asyncio.sleep(0)
        assert hall.admission.running == SLOTS - KEPT, "the room is made again before anybody else gets it"
        await hall.end()

    in_virtual_time(story)


def test_without_interactive_work_of_late_all_slots_are_everybodys() -> None:
    async def story(loop: VirtualLoop) -> None:
        hall = Hall(loop)
        await hall.ask(BATCH, 40)
        assert hall.admission.running == SLOTS
        hall = Hall(loop)
        await hall.ask(INTERACTIVE, 8)
        await asyncio.sleep(60.0)
        await hall.ask(STANDARD, 40)
        for _ in range(8):
            hall.leave(INTERACTIVE)
        await asyncio.sleep(60.0)
        hall.leave(STANDARD)
        await asyncio.sleep(0)
        assert hall.admission.running == SLOTS
        await hall.end()

    in_virtual_time(story)
