"""The memory of one server: which models are in it, what each is charged, and who has to go for another."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from inference.core.residency_ports import Memory

LEAKING: Final = "leaking"
STUCK_LOADING: Final = "stuck_loading"
STUCK_UNLOADING: Final = "stuck_unloading"
LONGEST_BACKOFF_S: Final = 60.0


class Stage(Enum):
    """Where a copy of a model is in its life."""

    LOADING = "loading"
    READY = "ready"
    CLOSING = "closing"
    """It takes no new lease, so that it can be unloaded when the last one ends."""
    DOUBTED = "doubted"
    """It was found on the server, or its answers came to be in doubt: it takes leases once it is proven right."""
    UNLOADING = "unloading"
    STUCK = "stuck"
    GONE = "gone"


class Copy:
    """A model in the memory of one server."""

    __slots__ = ("address", "bytes_", "leases", "measured", "model", "ready_at", "stage")

    def __init__(self, model: str, address: str, bytes_: int) -> None:
        self.model = model
        self.address = address
        self.bytes_ = bytes_
        self.measured = False
        self.leases = 0
        self.ready_at = 0.0
        self.stage = Stage.LOADING


@dataclass(frozen=True, slots=True)
class Refusal:
    """A load that failed: it is not tried again before `until`."""

    until: float
    why: str
    times: int


@dataclass(frozen=True, slots=True)
class Room:
    """A way to get room on a device: who has to go (perhaps after its leases end), and what is lost with them."""

    device: "Device"
    victims: tuple[Copy, ...]
    waits: bool
    cost: float


@dataclass(frozen=True, slots=True)
class Move:
    """What a device does next: these go, then this one comes, if any."""

    victims: tuple[Copy, ...]
    model: str = ""


@dataclass(slots=True)
class Device:
    """A server with a memory budget. `unexplained_bytes` is what it holds beyond its baseline and its models."""

    address: str
    budget_bytes: int
    leak_limit_bytes: int
    seen: bool = False
    alive: bool = False
    ailment: str = ""
    move: Move | None = None
    reserved_for: str = ""
    to_warm: list[str] = field(default_factory=list)
    copies: dict[str, Copy] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    baseline_bytes: int | None = None
    unexplained_bytes: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def charged_bytes(self) -> int:
        """What its models are charged."""
        return sum(copy.bytes_ for copy in self.copies.values())

    @property
    def free_bytes(self) -> int:
        """What is left of the budget; less than 0 when models have grown."""
        return self.budget_bytes - self.charged_bytes - self.unexplained_bytes

    def unexplained_in(self, memory: Memory, without: Copy | None = None) -> int | None:
        """Return the bytes held beyond the baseline and the models (one left out), or None while that is not known."""
        excess = self._excess(memory, without)
        return None if excess is None or self.baseline_bytes is None else max(0, excess - self.baseline_bytes)

    def measured(self, memory: Memory) -> None:
        """Take in what it holds. The baseline is what the server holds for itself: what was there at first."""
        excess = self._excess(memory)
        if excess is None:
            return
        if self.baseline_bytes is None or (not self.copies and excess < self.baseline_bytes):
            self.baseline_bytes = excess
        self.unexplained_bytes = max(0, excess - self.baseline_bytes)

    def _excess(self, memory: Memory, without: Copy | None = None) -> int | None:
        """Return the bytes beyond the models that are there, or None before each of them was measured once."""
        there = [copy for copy in self.copies.values() if copy.measured or copy.stage is not Stage.LOADING]
        if not all(copy.measured for copy in there):
            return None
        return max(0, memory.used_bytes - sum(copy.bytes_ for copy in there if copy is not without))

    def refuse(self, model: str, why: str, now: float) -> None:
        """Note that a load failed: the next one waits, twice as long each time."""
        before = self.refusals.get(model)
        times = before.times + 1 if before else 1
        self.refusals[model] = Refusal(now + min(2.0 ** (times - 1), LONGEST_BACKOFF_S), why, times)

    def refused(self, model: str, now: float) -> str:
        """Return why it would not load the model now, or nothing."""
        return self.refusals[model].why if self.refused_for_s(model, now) > 0 else ""

    def refused_for_s(self, model: str, now: float) -> float:
        """Return for how many seconds it will not load the model."""
        refusal = self.refusals.get(model)
        return max(0.0, refusal.until - now) if refusal is not None else 0.0

    def takes(self, model: str, now: float) -> bool:
        """Tell whether it may load the model: it does not have it, nor failed with it lately, nor waits for another."""
        reserved = self.reserved_for not in ("", model)
        return not reserved and model not in self.copies and not self.refused(model, now)

    def forget(self) -> None:
        """Drop what is known of a server that is down or away; its leases end by themselves."""
        for copy in self.copies.values():
            copy.stage = Stage.GONE
        self.copies.clear()
        self.alive, self.ailment, self.reserved_for, self.move = False, "", "", None
        self.baseline_bytes, self.unexplained_bytes = None, 0

    def room_for(self, bytes_: int, evictable: Iterable[tuple[float, Copy]]) -> Room | None:
        """Return the cheapest way to get so many bytes free, from copies with their worth; None when there is none.

        Copies that nobody holds go first, however much they are worth: the others have to be waited for.
        """
        lacking = bytes_ - self.free_bytes
        if lacking <= 0:
            return Room(self, (), waits=False, cost=0.0)
        victims: list[tuple[float, Copy]] = []
        for worth, copy in sorted(evictable, key=lambda each: (each[1].leases > 0, each[0] / max(1, each[1].bytes_))):
            victims.append((worth, copy))
            lacking -= copy.bytes_
            if lacking <= 0:
                break
        else:
            return None
        # whoever was taken before a larger one may not be needed any more
        for each in sorted(victims, key=lambda each: -each[0]):
            if lacking + each[1].bytes_ <= 0:
                victims.remove(each)
                lacking += each[1].bytes_
        gone = tuple(copy for _, copy in victims)
        return Room(self, gone, any(copy.leases for copy in gone), sum(worth for worth, _ in victims))
