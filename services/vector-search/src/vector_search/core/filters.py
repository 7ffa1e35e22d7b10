"""Tests on a document's metadata.

They are evaluated here and never become text of a query language, so there is nothing a value could break out of.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from servicekit.errors import InvalidInput

from vector_search.core.knowledge import Scalar, check_field

MOST_CONDITIONS = 32
MOST_VALUES = 1_000


class Comparison(Enum):
    """How a metadata field is compared."""

    EQUAL = "=="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    IN = "in"


_ORDERED: Mapping[Comparison, Callable[[Scalar, Scalar], bool]] = {
    Comparison.LESS: operator.lt,
    Comparison.LESS_OR_EQUAL: operator.le,
    Comparison.GREATER: operator.gt,
    Comparison.GREATER_OR_EQUAL: operator.ge,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One test; `values` has one value, or for IN at least one. A document without the field does not pass.

    Values of different kinds (text, number, boolean) are never equal and have no order.
    """

    field: str
    comparison: Comparison
    values: tuple[Scalar, ...]

    def passes(self, metadata: Mapping[str, Scalar]) -> bool:
        """Say whether a document with this metadata passes."""
        found = metadata.get(self.field)
        if found is None:
            return False
        if self.comparison is Comparison.NOT_EQUAL:
            return not _equal(found, self.values[0])
        order = _ORDERED.get(self.comparison)
        if order is None:
            return any(_equal(found, value) for value in self.values)
        return _kind(found) is _kind(self.values[0]) and order(found, self.values[0])


Filter = tuple[Condition, ...]
"""All have to pass."""


def check_filter(conditions: Sequence[Condition]) -> None:
    """Raise InvalidInput unless the conditions can be evaluated."""
    if len(conditions) > MOST_CONDITIONS:
        raise InvalidInput(f"{len(conditions)} conditions; at most {MOST_CONDITIONS} are allowed", field="filter")
    for position, condition in enumerate(conditions):
        check_field(condition.field, f"filter[{position}].field")
        wanted = MOST_VALUES if condition.comparison is Comparison.IN else 1
        if not 1 <= len(condition.values) <= wanted:
            raise InvalidInput(
                f"{len(condition.values)} values for {condition.comparison.name}; 1 to {wanted:,} are allowed",
                field=f"filter[{position}].value",
            )
        if condition.comparison in _ORDERED and isinstance(condition.values[0], bool):
            raise InvalidInput("booleans have no order", field=f"filter[{position}].comparison")


def _kind(value: Scalar) -> type:
    return type(value) if isinstance(value, bool | str) else float


def _equal(left: Scalar, right: Scalar) -> bool:
    return _kind(left) is _kind(right) and left == right
