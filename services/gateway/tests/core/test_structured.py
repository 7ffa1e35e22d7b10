"""Schemas are checked before they are used, and cannot be made to cost much; answers are held against them."""

import json
import time
from typing import Any

import pytest
from gateway.core.schema_graph import SchemaRefused
from gateway.core.structured import ANY_OBJECT, Demands, Schema, correction, schema_of

PATH = "response_format.json_schema.schema"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "anyOf": [
                {"type": "object", "properties": {"left": {"$ref": "#/$defs/node"}, "op": {"const": op}}}
                for op in ("add", "subtract", "multiply")
            ]
        }
    },
}


def compiled(schema: Any) -> Schema:
    return schema_of(json.dumps(schema), PATH)


def bomb(levels: int, keyword: str = "allOf") -> dict[str, Any]:
    def twice(name: str) -> Any:
        ref = {"$ref": f"#/$defs/{name}"}
        return {"a": ref, "b": ref} if keyword == "properties" else [ref, ref]

    defs: dict[str, Any] = {f"l{each}": {keyword: twice(f"l{each + 1}")} for each in range(levels)}
    return {"$ref": "#/$defs/l0", "$defs": {**defs, f"l{levels}": {"type": "string"}}}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"name": "A", "age": 3}', True),
        ('{"name": "A", "age": 3.0}', True),
        ('{"name": "A", "age": -1}', False),
        ('{"name": "A"}', False),
        ('{"name": "A", "age": 3, "more": 1}', False),
        ('{"name": "A", "age": 3, "age": 4}', False),
        ('{"name": "A", "age": NaN}', False),
        ('{"name": "A", "age": 3', False),
        ('```json\n{"name": "A", "age": 3}\n```', False),
        ("[]", False),
        ("", False),
        ("[" * 100_000, False),
    ],
)
def test_answers(text: str, right: bool) -> None:
    assert (compiled(PERSON).faults(text) == []) == right


def test_a_fault_is_named_by_its_path() -> None:
    assert compiled({"properties": {"a": {"items": PERSON}}}).faults('{"a": [{"name": 1, "age": 2}]}') == [
        '$.a[0].name: 1 is not of type "string"'
    ]
    told = correction(compiled(PERSON).faults("{}"))
    assert '"age" is a required property' in told
    assert len(compiled(PERSON).faults(json.dumps({"x" * 5000: 1, "name": 1, "age": "y"}))) <= 5


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ([], ""),
        ("text", ""),
        ({"$ref": "https://example.org/schema"}, ".$ref"),
        ({"$ref": "file:///etc/passwd"}, ".$ref"),
        ({"$ref": "#/$defs/none"}, ".$ref"),
        ({"$ref": "#anchor"}, ".$ref"),
        ({"$ref": 5}, ".$ref"),
        ({"properties": {"a": {"$ref": "other.json"}}}, ".properties.a.$ref"),
        ({"properties": {"a": {"$id": "https://example.org"}}}, ".properties.a.$id"),
        ({"$dynamicRef": "#"}, ".$dynamicRef"),
        ({"unevaluatedProperties": False}, ".unevaluatedProperties"),
        ({"requried": ["a"]}, ".requried"),
        ({"properties": []}, ".properties"),
        ({"allOf": {}}, ".allOf"),
        ({"items": 5}, ".items"),
        ({"type": "strin"}, ".type"),
        ({"properties": {"a": {"minimum": "x"}}}, ".properties.a.minimum"),
        ({"pattern": "(?=a)b"}, ".pattern"),
        ({"pattern": "(a)\\1"}, ".pattern"),
        ({"pattern": "((a{500}){500}){500}"}, ".pattern"),
        ({"$ref": "#"}, ""),
        ({"allOf": [{"$ref": "#"}]}, ""),
        ({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}}, ""),
        (bomb(40), ""),
        (bomb(40, "anyOf"), ""),
        (bomb(40, "properties"), ""),
        ({"anyOf": [{"const": each} for each in range(5000)]}, ""),
        (deep(100), ""),
        ({"enum": ["x" * 300_000]}, ""),
    ],
)
def test_schemas_that_are_refused(schema: Any, field: str) -> None:
    start = time.thread_time()
    with pytest.raises(SchemaRefused) as caught:
        compiled(schema)
    assert time.thread_time() - start < 1  # a second of its own, however busy the machine is
    assert caught.value.field.startswith(PATH + field)
    assert caught.value.reason == "invalid_schema"
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("text", ["", "{", '{"type": "object", "type": "array"}', "[" * 10_000, '{"minimum": 1e999}'])
def test_schemas_that_are_no_json(text: str) -> None:
    with pytest.raises(SchemaRefused):
        schema_of(text, PATH)


def test_what_only_looks_like_a_schema_is_left_alone() -> None:
    properties = {"$ref": {"type": "string"}, "requried": True, "items": {"type": "array"}}
    remarks = {"default": {"$ref": "x"}, "examples": [{"$id": 1}], "x-order": ["a"], "$comment": "c", "title": "T"}
    schema = compiled({"$schema": "http://json-schema.org/draft-07/schema#", "properties": properties, **remarks})
    assert schema.faults('{"$ref": "a"}') == []
    assert schema.faults('{"$ref": 1}')
    assert compiled({"enum": [{"$ref": "y"}]}).faults('{"$ref": "y"}') == []


def test_recursion_is_followed() -> None:
    tree = compiled(TREE)
    assert tree.faults('{"op": "add", "left": {"op": "subtract", "left": {"op": "multiply"}}}') == []
    assert tree.faults('{"op": "add", "left": {"op": "divide"}}')


def test_an_answer_cannot_make_a_recursive_schema_cost_much() -> None:
    nested = '{"left": ' * 60 + "{}" + "}" * 60
    start = time.thread_time()
    assert compiled(TREE).faults(nested) == ["it is too large to be checked against this schema"]
    wide = json.dumps({"left": [{"left": each} for each in range(100_000)]})
    compiled(TREE).faults(wide)
    assert compiled(PERSON).faults("[" + "1," * 600_000 + "1]") == ["it is longer than 1048576 characters"]
    assert compiled({"pattern": "^(a|a)*(a*)*b$"}).faults(json.dumps("a" * 50_000))
    assert time.thread_time() - start < 3


def test_work_that_is_counted_is_an_upper_bound_that_large_plain_answers_keep() -> None:
    rows = [{"name": "A", "age": each} for each in range(3000)]
    assert compiled({"type": "array", "items": PERSON}).faults(json.dumps(rows)) == []
    graph = compiled(TREE).graph
    assert graph.expanded is None
    assert graph.effort({"left": {}}, 10_000) == 5 + 3 * 5 + 3 * 0


def test_demands() -> None:
    assert not Demands()
    demands = Demands(ANY_OBJECT, {"find": compiled(PERSON)})
    assert demands
    assert demands.faults("{}", []) == []
    assert demands.faults("[]", [])
    assert demands.faults("", [("other", "no json")]) == []
    assert demands.faults("", [("find", '{"name": "A", "age": 1}')]) == []
    assert demands.faults("", [("find", "{")])[0].startswith("arguments of find: it is not JSON")
