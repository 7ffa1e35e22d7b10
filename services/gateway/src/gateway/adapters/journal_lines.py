"""The lines of a journal: what an attempt's begin and end look like in a file, each with a checksum."""

from dataclasses import dataclass, fields, replace
from typing import Any, Final
from zlib import crc32

import orjson

from gateway.core.attempts import Attempt, Outcome, Settled

CHECKSUM: Final = 9
"""Eight hexadecimal digits and a space stand before the JSON of a line."""

_ATTEMPT: Final = frozenset(field.name for field in fields(Attempt))
_OUTCOME: Final = frozenset(field.name for field in fields(Outcome))


class CorruptLine(ValueError):
    """A line that is not what was once written."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt began; `carried` if the line repeats one of an earlier segment."""

    attempt: Attempt
    carried: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt ended."""

    attempt_id: str
    outcome: Outcome
    ended_at: float


def writable(attempt: Attempt) -> tuple[Attempt, bytes]:
    """Return an attempt as it can be kept, and the line for its begin."""
    try:
        return attempt, begin_line(attempt)
    except orjson.JSONEncodeError:  # half of a surrogate pair, which Unicode text cannot have
        values = ((name, getattr(attempt, name)) for name in _ATTEMPT)
        texts: Any = {name: text.encode(errors="replace").decode() for name, text in values if isinstance(text, str)}
        attempt = replace(attempt, **texts)
        return attempt, begin_line(attempt)


def begin_line(attempt: Attempt, *, carried: bool = False) -> bytes:
    """Return the line for a begin."""
    return _line(["c" if carried else "b", attempt])


def end_line(attempt_id: str, outcome: Outcome, ended_at: float) -> bytes:
    """Return the line for an end; `ended_at` in seconds since 1970."""
    return _line(["e", attempt_id, ended_at, outcome])


def row_line(row: Settled) -> bytes:
    """Return the line for a whole row that was put aside."""
    return _line(["r", row.attempt, row.ended_at, row.outcome])


def parse(line: bytes) -> Begun | Ended:
    """Return what a line says; raise CorruptLine. Fields that this version does not know are left out."""
    try:
        if int(line[: CHECKSUM - 1], 16) != crc32(line[CHECKSUM:]):
            raise CorruptLine("the checksum is another")
        kind, *rest = orjson.loads(line[CHECKSUM:])
        if kind == "e":
            attempt_id, ended_at, outcome = rest
            return Ended(attempt_id, Outcome(**_known(outcome, _OUTCOME)), ended_at)
        return Begun(Attempt(**_known(rest[0], _ATTEMPT)), kind == "c")
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise CorruptLine(str(error)) from error


def _known(found: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    if found.keys() <= names:
        return found
    return {name: found[name] for name in found.keys() & names}


def _line(content: list[Any]) -> bytes:
    text = orjson.dumps(content)
    return b"%08x %b\n" % (crc32(text), text)
