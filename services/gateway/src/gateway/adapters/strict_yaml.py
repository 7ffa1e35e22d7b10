"""Reads YAML as far as configuration needs it: no anchors, no tags, no double keys, nothing deep, nothing large."""

import re
from collections.abc import Hashable
from decimal import Decimal
from typing import Any, Final

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.cyaml import CParser  # type: ignore[attr-defined]  # the stubs forget it
from yaml.resolver import BaseResolver

LARGEST_BYTES: Final = 1024 * 1024
DEEPEST: Final = 12
LONGEST_NUMBER: Final = 40


class YamlMistake(ValueError):
    """The text is not what is read here; the message says in which line and why."""


class _Loader(CParser, SafeConstructor, BaseResolver):
    """Knows text, null, true and false, whole and decimal numbers; the latter become Decimal, so none is rounded."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        SafeConstructor.__init__(self)
        BaseResolver.__init__(self)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping whose keys are texts, each there once."""
        found: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConstructorError(None, None, "a key has to be a text; quote it", key_node.start_mark)
            if key in found:
                raise ConstructorError(None, None, f"the key {key[:100]!r} is there twice", key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=deep)
        return found

    def construct_whole(self, node: yaml.Node) -> int:
        """Return a whole number."""
        return int(self._digits(node))

    def construct_decimal(self, node: yaml.Node) -> Decimal:
        """Return a number with decimals, exactly as written."""
        return Decimal(self._digits(node))

    def _digits(self, node: yaml.Node) -> str:
        if len(node.value) > LONGEST_NUMBER:
            raise ConstructorError(None, None, "the number is too long", node.start_mark)
        return str(node.value)


_TAG: Final = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("null", r"(?:~|null|)$", ["~", "n", ""]),
    ("bool", r"(?:true|false)$", ["t", "f"]),
    ("int", r"[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)
_Loader.add_constructor(_TAG + "int", _Loader.construct_whole)  # type: ignore[type-var]  # as above
_Loader.add_constructor(_TAG + "float", _Loader.construct_decimal)  # type: ignore[type-var]  # as above


def load(raw: bytes) -> Any:
    """Return what a YAML document says; raise YamlMistake."""
    if len(raw) > LARGEST_BYTES:
        raise YamlMistake(f"it is larger than {LARGEST_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
        _check_events(text)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise YamlMistake(f"it is not UTF-8 at byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        raise YamlMistake(_told(error.problem_mark, error.problem or "it is no YAML")) from error
    except yaml.YAMLError as error:
        raise YamlMistake("it is no YAML: a character that may not be there") from error


def _check_events(text: str) -> None:
    """Refuse what would make a small text large or strange, before anything is built of it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):  # type: ignore[arg-type]  # as above
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlMistake(_told(event.start_mark, "anchors and aliases are not allowed"))
        if getattr(event, "tag", None):
            raise YamlMistake(_told(event.start_mark, "tags are not allowed"))
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise YamlMistake(_told(event.start_mark, f"it is nested deeper than {DEEPEST} levels"))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _told(mark: Any, problem: str) -> str:
    return problem if mark is None else f"line {mark.line + 1}: {problem}"
