"""Turns rows of the ledger into the values of its columns, in one order, as both databases can keep them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter, gt
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Float, String

from gateway.adapters.ledger_tables import ledger
from gateway.core.attempts import Attempt, Outcome, Settled
from gateway.core.ledger_ports import RowRefused
from gateway.core.usage import microseconds

LARGEST: Final = 2**63 - 1
Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The columns of one sort that one dataclass fills by name: fetched at once, for this is done for every row."""

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    fetch: Callable[[object], Values]

    @classmethod
    def of(cls, kind: type, *sorts: type) -> "Part":
        """Return the part of the table that fields of a dataclass fill and that has columns of these sorts."""
        fillable = {field.name for field in fields(kind)}
        columns = [column for column in ledger.columns if column.name in fillable and isinstance(column.type, sorts)]
        names = tuple(str(column.name) for column in columns)
        return cls(names, tuple(getattr(column.type, "length", 0) for column in columns), attrgetter(*names))


ATTEMPT_TEXTS: Final = Part.of(Attempt, String)
ATTEMPT_NUMBERS: Final = Part.of(Attempt, BigInteger)
OUTCOME_TEXTS: Final = Part.of(Outcome, String)
OUTCOME_NUMBERS: Final = Part.of(Outcome, BigInteger)
OUTCOME_REST: Final = Part.of(Outcome, Boolean, Float)
TEXT_LENGTHS: Final = ATTEMPT_TEXTS.lengths + OUTCOME_TEXTS.lengths
COLUMNS: Final = (
    *ATTEMPT_TEXTS.names,
    *OUTCOME_TEXTS.names,
    *ATTEMPT_NUMBERS.names,
    *OUTCOME_NUMBERS.names,
    *OUTCOME_REST.names,
    "started_us",
    "ended_us",
)
"""The order of the values."""

ID: Final = COLUMNS.index("id")


def column_values(row: Settled) -> Values:
    """Return a row's values; texts too long are cut, except its id. Raises RowRefused for what is no row."""
    attempt, outcome = row.attempt, row.outcome
    try:
        texts = fitting(ATTEMPT_TEXTS.fetch(attempt) + OUTCOME_TEXTS.fetch(outcome), TEXT_LENGTHS)
        numbers = ATTEMPT_NUMBERS.fetch(attempt) + OUTCOME_NUMBERS.fetch(outcome)
        if max(numbers) > LARGEST or min(numbers) < -LARGEST:
            raise RowRefused("a number of the row is too large")
        moments = microseconds(attempt.started_at), microseconds(row.ended_at)
    except TypeError as error:
        raise RowRefused("a value of the row is of another type") from error
    if texts[ID] != attempt.id:
        raise RowRefused("the attempt's id is too long")
    return (*texts, *numbers, *OUTCOME_REST.fetch(outcome), *moments)


def fitting(texts: Values, lengths: Sequence[int]) -> Values:
    """Return texts as both databases can keep them; nearly always they are that already."""
    if "\0" not in "".join(texts) and not any(map(gt, map(len, texts), lengths)):
        return texts
    return tuple([text[:length].replace("\0", "") for text, length in zip(texts, lengths, strict=True)])
