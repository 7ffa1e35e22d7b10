"""Long work on many things in short turns, so that the event loop's other work never waits for all of it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

TURN: Final = 25
Given = TypeVar("Given")
Made = TypeVar("Made")


async def in_turns(given: Sequence[Given], make: Callable[[Given], Made], turn: int = TURN) -> list[Made]:
    """Return what is made of each; after every `turn` of them the event loop does something else."""
    if len(given) <= turn:
        return list(map(make, given))
    made: list[Made] = []
    for start in range(0, len(given), turn):
        made.extend(map(make, given[start : start + turn]))
        await asyncio.sleep(0)
    return made
