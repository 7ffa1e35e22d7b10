"""The shape of a JSON Schema: its subschemas, how they lead to one another, and how much work checking a value is."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final
from urllib.parse import unquote

from servicekit.errors import InvalidInput

MAX_NODES: Final = 4_000
MAX_DEPTH: Final = 64
MAX_SPREAD: Final = 2_000
"""How many subschemas one value may meet at once."""
MAX_WALKED: Final = 50_000
"""Pairs of a subschema and a value that are looked at to count the work, some 40 milliseconds."""
LONGEST_PATH: Final = 200
MAX_EXPANDED: Final = 100_000
"""Subschemas with every reference written out, where that has an end."""

SAME_VALUE: Final = frozenset({"not", "if", "then", "else"})
ONE_BELOW: Final = frozenset({"items", "contains", "additionalProperties", "propertyNames"})
DEFINITIONS: Final = frozenset({"$defs", "definitions"})
MAPS: Final = DEFINITIONS | {"properties", "patternProperties", "dependentSchemas"}
LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
PLAIN: Final = frozenset(
    {
        *("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
        *("maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
        *("maxProperties", "minProperties", "required", "dependentRequired", "format", "contentEncoding"),
        *("contentMediaType", "title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples"),
        *("$comment", "$ref", "discriminator"),
    }
)
HOLDING: Final = SAME_VALUE | ONE_BELOW | MAPS | LISTS


class SchemaRefused(InvalidInput):
    """A JSON Schema that is none, that asks for what is not checked here, or that costs too much to check."""

    default_reason = "invalid_schema"


class TooCostly(Exception):
    """Checking this value would take more work than it may."""


@dataclass(slots=True, eq=False)
class Node:
    """A subschema: what else its own value meets, and what the values inside that one meet."""

    pointer: str
    ref: str = ""
    same: list["Node"] = field(default_factory=list)
    properties: dict[str, "Node"] = field(default_factory=dict)
    each_property: list["Node"] = field(default_factory=list)
    places: list["Node"] = field(default_factory=list)
    each_item: list["Node"] = field(default_factory=list)

    def next(self) -> list["Node"]:
        """Return the subschemas that its value and the values inside meet."""
        return [*self.same, *self.properties.values(), *self.each_property, *self.places, *self.each_item]

    def of_property(self, name: str) -> Iterator["Node"]:
        """Yield the subschemas that a property may meet."""
        if name in self.properties:
            yield self.properties[name]
        yield from self.each_property

    def of_item(self, index: int) -> Iterator["Node"]:
        """Yield the subschemas that an item may meet."""
        if index < len(self.places):
            yield self.places[index]
        yield from self.each_item


class Graph:
    """The subschemas of a schema. Raises SchemaRefused, with the path of what is wrong, when it is made."""

    def __init__(self, schema: Any, path: str) -> None:
        """Take a schema as JSON values, and what its own path is called."""
        self._path = path
        self._nodes: dict[str, Node] = {}
        self._met: dict[Node, Counter[Node]] = {}
        self.root = self._read(schema, "", 0)
        for node in self._nodes.values():
            if node.ref:
                node.same.append(self._target(node))
        self._count_crowds()
        self.expanded = self._expanded()

    def _refuse(self, pointer: str, why: str) -> SchemaRefused:
        path = self._path + pointer.replace("/", ".")
        return SchemaRefused(f"the JSON Schema cannot be used: {why}", field=path[:LONGEST_PATH])

    def _read(self, schema: Any, pointer: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self._refuse("", f"it is nested deeper than {MAX_DEPTH}")
        if len(self._nodes) >= MAX_NODES:
            raise self._refuse("", f"it has more than {MAX_NODES} parts")
        if not isinstance(schema, dict | bool):
            raise self._refuse(pointer, "a schema is an object, true or false")
        node = self._nodes[pointer] = Node(pointer)
        for keyword, value in schema.items() if isinstance(schema, dict) else ():
            self._read_keyword(node, keyword, value, depth + 1)
        return node

    def _read_keyword(self, node: Node, keyword: str, value: Any, depth: int) -> None:
        pointer = f"{node.pointer}/{keyword}"
        if keyword == "$ref":
            node.ref = self._local(pointer, value)
        elif keyword in HOLDING:
            for name, place, schema in self._held(keyword, value, pointer):
                self._add(node, keyword, name, self._read(schema, place, depth))
        elif keyword not in PLAIN and not keyword.startswith("x-"):
            raise self._refuse(pointer, f"the keyword {keyword[:60]!r} is not supported")

    def _held(self, keyword: str, value: Any, pointer: str) -> Iterator[tuple[str, str, Any]]:
        """Yield the schemas that a keyword holds: name, pointer, schema."""
        if keyword in LISTS:
            if not isinstance(value, list):
                raise self._refuse(pointer, f"{keyword} is a list of schemas")
            yield from (("", f"{pointer}/{index}", each) for index, each in enumerate(value))
        elif keyword in MAPS:
            if not isinstance(value, dict):
                raise self._refuse(pointer, f"{keyword} is an object of schemas")
            yield from ((name, f"{pointer}/{_escaped(name)}", each) for name, each in value.items())
        else:
            yield "", pointer, value

    def _add(self, node: Node, keyword: str, name: str, child: Node) -> None:
        if keyword == "properties":
            node.properties[name] = child
        elif keyword in {"patternProperties", "additionalProperties", "propertyNames"}:
            node.each_property.append(child)
        elif keyword == "prefixItems":
            node.places.append(child)
        elif keyword in {"items", "contains"}:
            node.each_item.append(child)
        elif keyword not in DEFINITIONS:
            node.same.append(child)

    def _local(self, pointer: str, value: Any) -> str:
        if not isinstance(value, str) or (value != "#" and not value.startswith("#/")):
            raise self._refuse(pointer, "$ref leads inside the schema: # or #/...")
        return value

    def _target(self, node: Node) -> Node:
        found = self._nodes.get(unquote(node.ref[1:]))
        if found is None:
            raise self._refuse(f"{node.pointer}/$ref", "$ref leads nowhere")
        return found

    def _count_crowds(self) -> None:
        """Refuse schemas that meet their own value again, and crowds that meet one value."""
        sizes: dict[Node, int] = {}
        try:
            for node in TopologicalSorter({node: node.same for node in self._nodes.values()}).static_order():
                sizes[node] = 1 + sum(sizes[each] for each in node.same)
                if sizes[node] > MAX_SPREAD:
                    raise self._refuse(node.pointer, f"a value would be checked more than {MAX_SPREAD} times")
        except CycleError as error:
            raise self._refuse(error.args[1][0].pointer, "it refers to itself for the same value") from error

    def _expanded(self) -> int | None:
        """Return how many subschemas there are with every reference written out; None when that has no end."""
        sizes: dict[Node, int] = {}
        try:
            for node in TopologicalSorter({node: node.next() for node in self._nodes.values()}).static_order():
                sizes[node] = 1 + sum(sizes[each] for each in node.next())
        except CycleError:
            return None
        if sizes[self.root] > MAX_EXPANDED:
            raise self._refuse("", f"with references written out it has more than {MAX_EXPANDED} parts")
        return sizes[self.root]

    def effort(self, value: Any, limit: int) -> int:
        """Return how many checks of a subschema a value takes at most; raise TooCostly above `limit`, or uncounted."""
        known: dict[tuple[int, int], int] = {}

        def of(node: Node, value: Any) -> int:
            key = (id(node), id(value))
            if key not in known:
                known[key] = 1  # counted before the values inside are, so the bound holds on the way, too
                known[key] = _within(sum(count * inside(each, value) for each, count in self._meeting(node).items()))
            return known[key]

        def inside(node: Node, value: Any) -> int:
            if isinstance(value, dict):
                return 1 + sum(of(each, part) for name, part in value.items() for each in node.of_property(name))
            if isinstance(value, list):
                return 1 + sum(of(each, part) for index, part in enumerate(value) for each in node.of_item(index))
            return 1

        def _within(work: int) -> int:
            if work > limit or len(known) > MAX_WALKED:
                raise TooCostly
            return work

        return of(self.root, value)

    def _meeting(self, node: Node) -> Counter[Node]:
        """Return the subschemas that a value of this one meets, and how often."""
        if node not in self._met:
            met = Counter({node: 1})
            for each in node.same:
                met.update(self._meeting(each))
            self._met[node] = met
        return self._met[node]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
