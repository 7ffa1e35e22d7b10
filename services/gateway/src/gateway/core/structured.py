"""Answers that have to be JSON of a given form: the schema is checked before, the answer after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar, Final

import jiter
from jsonschema_rs import Draft202012Validator, ReferencingError, RegexOptions, ValidationError
from servicekit.errors import InvalidInput, Unavailable

from gateway.core.schema_graph import Graph, SchemaRefused, TooCostly

MAX_SCHEMA_CHARS: Final = 256 * 1024
MAX_ANSWER_CHARS: Final = 1024 * 1024
MAX_CHECKS: Final = 500_000
"""Checks of a subschema that one answer may take, some tens of milliseconds."""
MAX_FAULTS: Final = 5
LONGEST_FAULT: Final = 200
KEPT_SCHEMAS: Final = 256
PATTERNS: Final = RegexOptions(size_limit=1_000_000)
"""Linear time, without look-around and back references; what needs more is refused."""


class InvalidStructuredOutput(Unavailable):
    """The model did not write what the caller demanded, not even when it was shown what was wrong."""

    default_reason = "invalid_structured_output"
    retry: ClassVar[bool] = False  # it was tried again already


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON Schema that answers are held against. Draft 2020-12; `format` is a remark, as the standard has it."""

    graph: Graph
    validator: Draft202012Validator

    def faults(self, text: str) -> list[str]:
        """Return what is wrong with a text, path first, worst first; nothing when it is JSON that fits."""
        if len(text) > MAX_ANSWER_CHARS:
            return [f"it is longer than {MAX_ANSWER_CHARS} characters"]
        try:
            value = parse_json(text)
        except ValueError as error:
            return [f"it is not JSON: {error}"[:LONGEST_FAULT]]
        if not self._affordable(text, value):
            return ["it is too large to be checked against this schema"]
        found = []
        for fault in islice(self.validator.iter_errors(value), MAX_FAULTS):
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.instance_path)
            found.append(f"${path}: {fault.message}"[:LONGEST_FAULT])
        return found

    def _affordable(self, text: str, value: Any) -> bool:
        if self.graph.expanded is not None:
            values = text.count(",") + text.count("[") + text.count("{") + 1
            if self.graph.expanded * values <= MAX_CHECKS:
                return True
        try:
            self.graph.effort(value, MAX_CHECKS)
        except (TooCostly, RecursionError):
            return False
        return True


ANY_OBJECT: Final = Schema(Graph({"type": "object"}, ""), Draft202012Validator({"type": "object"}))


@dataclass(frozen=True, slots=True)
class Demands:
    """What an answer has to be: its text, and the arguments of each strict tool by name; None where anything goes."""

    content: Schema | None = None
    arguments: Mapping[str, Schema] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.content is not None or bool(self.arguments)

    def faults(self, text: str, calls: Sequence[tuple[str, str]]) -> list[str]:
        """Return what is wrong with a finished answer: its text, and (name, arguments) of each call it makes."""
        if not calls:
            return self.content.faults(text) if self.content is not None else []
        return [
            f"arguments of {name}: {fault}"
            for name, arguments in calls
            if name in self.arguments
            for fault in self.arguments[name].faults(arguments)
        ]


NO_DEMANDS: Final = Demands()


def parse_json(text: str | bytes) -> Any:
    """Return JSON text as values; raise ValueError for what is none, has a name twice, NaN, or 200 levels."""
    return jiter.from_json(
        text.encode() if isinstance(text, str) else text, allow_inf_nan=False, catch_duplicate_keys=True
    )


def schema_of(text: str, path: str) -> Schema:
    """Return the schema that a JSON text is; raise SchemaRefused, naming what is wrong by its path below `path`."""
    if len(text) > MAX_SCHEMA_CHARS:
        raise SchemaRefused(f"the JSON Schema is longer than {MAX_SCHEMA_CHARS} characters", field=path)
    return _compiled(text, path)


@lru_cache(maxsize=KEPT_SCHEMAS)
def _compiled(text: str, path: str) -> Schema:
    try:
        schema = parse_json(text)
    except ValueError as error:
        raise SchemaRefused(f"the schema is not JSON: {error}"[:LONGEST_FAULT], field=path) from error
    if not isinstance(schema, dict):
        raise SchemaRefused("a JSON Schema is an object", field=path)
    schema.pop("$schema", None)
    graph = Graph(schema, path)
    try:
        validator = Draft202012Validator(schema, offline=True, validate_formats=False, pattern_options=PATTERNS)
    except (ValidationError, ReferencingError, ValueError) as error:
        raise _not_a_schema(error, path) from error
    return Schema(graph, validator)


def _not_a_schema(error: Exception, path: str) -> InvalidInput:
    parts = getattr(error, "instance_path", ())
    where = path + "".join(f".{part}" for part in parts)
    why = str(getattr(error, "message", error))[:LONGEST_FAULT]
    return SchemaRefused(f"the JSON Schema cannot be used: {why}", field=where[:LONGEST_FAULT])


def correction(faults: Sequence[str]) -> str:
    """Return what a model is told about an answer that does not fit."""
    listed = "\n".join(f"- {fault}" for fault in faults)
    return (
        "Your last answer is not what was demanded:\n"
        f"{listed}\n"
        "Answer again, with nothing but JSON that matches the schema of the response format."
    )
