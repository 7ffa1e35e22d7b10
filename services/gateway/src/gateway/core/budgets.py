"""Budgets of a UTC day or month: which period it is, what was spent in it, what is reserved."""

from datetime import UTC, datetime
from typing import Final

from gateway.core.limit_ports import CHECK_EVERY_S, Measure

DAY_S: Final = 86_400


def day_of(now_s: float) -> int:
    """Return the number of days since the start of 1970, UTC."""
    return int(now_s // DAY_S)


def month_of(day: int) -> int:
    """Return the number of months since the start of 1970, of a number of days."""
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return (date.year - 1970) * 12 + date.month - 1


def start_of(measure: Measure, number: int) -> datetime:
    """Return when a day or a month begins, by its number since 1970."""
    if measure is Measure.DAY:
        return datetime.fromtimestamp(number * DAY_S, UTC)
    return datetime(1970 + number // 12, number % 12 + 1, 1, tzinfo=UTC)


class Spending:
    """What one subject spends in one period. A new period knows nothing until the ledger has said what was spent."""

    __slots__ = ("base", "checked_s", "number", "reserved", "seeded_s", "spent")

    def __init__(self) -> None:
        self.number = -1
        self.seeded_s: float | None = None
        self.checked_s = 0.0
        self.base = self.spent = self.reserved = 0

    def enter(self, number: int) -> None:
        """Start again when the period is another one."""
        if number != self.number:
            self.number = number
            self.seeded_s = None
            self.spent = self.reserved = 0

    def seed(self, spent: int, now_s: float) -> None:
        """Take the ledger's word. Later it corrects upwards only, and leaves out what open reservations stand for."""
        if self.seeded_s is None:
            self.seeded_s = now_s
            self.base = self.spent = spent
        else:
            self.spent = max(self.spent, spent - self.reserved)
        self.checked_s = now_s

    def left(self, budget: int, processes: int) -> int:
        """Return what may still be reserved: all of it, or this process's share of what there was at the seeding."""
        if processes > 1:
            budget = self.base + max(budget - self.base, 0) // processes
        return budget - self.spent - self.reserved

    def is_due(self, now_s: float) -> bool:
        """Say whether it is time to ask the ledger again, to one caller only."""
        if now_s - self.checked_s < CHECK_EVERY_S:
            return False
        self.checked_s = now_s
        return True

    def settle(self, number: int, reserved: int, used: int) -> None:
        """Count what an open reservation came to; nothing, when its period is over."""
        if number == self.number:
            self.reserved = max(self.reserved - reserved, 0)
            self.spent += used

    def settle_unknown(self, number: int, at_s: float, reserved: int, used: int) -> None:
        """Count a reservation that is not open: it was forgotten with all the rest, or expired as wholly spent."""
        if number == self.number and self.seeded_s is not None:
            self.spent += used if at_s < self.seeded_s else used - reserved
