"""Filters on metadata: a JSON object becomes conditions, all of which must pass."""

import re
from typing import Any, Final

from google.protobuf.struct_pb2 import ListValue, Value
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from servicekit.errors import InvalidInput

OPERATORS: Final = {
    "eq": vectors.COMPARISON_EQUAL,
    "ne": vectors.COMPARISON_NOT_EQUAL,
    "lt": vectors.COMPARISON_LESS,
    "lte": vectors.COMPARISON_LESS_OR_EQUAL,
    "gt": vectors.COMPARISON_GREATER,
    "gte": vectors.COMPARISON_GREATER_OR_EQUAL,
    "in": vectors.COMPARISON_IN,
}
FIELD_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def conditions(filters: dict[str, Any] | None) -> list[vectors.Condition]:
    """Return the conditions of `{"field": value}` and `{"field": {"gte": 3, "in": [..]}}`; raise InvalidInput."""
    found: list[vectors.Condition] = []
    for field, wanted in (filters or {}).items():
        path = f"filter.{field}"
        if not FIELD_NAME.fullmatch(field):
            raise InvalidInput("a field's name is a letter, then letters, digits and _, 64 in all", field="filter")
        tests = wanted if isinstance(wanted, dict) else {"eq": wanted}
        if not tests:
            raise InvalidInput(f"{path} compares with nothing", field=path)
        found += [_condition(field, operator, value, f"{path}.{operator}") for operator, value in tests.items()]
    return found


def _condition(field: str, operator: str, value: Any, path: str) -> vectors.Condition:
    comparison = OPERATORS.get(operator)
    if comparison is None:
        raise InvalidInput(f"unknown operator {operator!r}; there are {', '.join(OPERATORS)}", field=path)
    if comparison != vectors.COMPARISON_IN:
        return vectors.Condition(field=field, comparison=comparison, value=_scalar(value, path))
    if not isinstance(value, list) or not value:
        raise InvalidInput(f"{path} needs a list that is not empty", field=path)
    items = ListValue(values=[_scalar(item, f"{path}[{position}]") for position, item in enumerate(value)])
    return vectors.Condition(field=field, comparison=comparison, value=Value(list_value=items))


def _scalar(value: Any, path: str) -> Value:
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, int | float):
        return Value(number_value=value)
    if isinstance(value, str):
        return Value(string_value=value)
    raise InvalidInput(f"{path} has to be a string, a number or a boolean", field=path)
