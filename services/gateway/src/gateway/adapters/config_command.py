"""Checks a configuration file without a gateway, and tells what another one would change: `penstock config` runs it."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from gateway.adapters.config_file import ConfigFile, parse, read_bytes
from gateway.core.configuration import mistakes
from gateway.core.live_configuration import BadConfiguration
from gateway.core.models import Catalogue, ModelCard, Task


def catalogue_of(path: Path) -> Catalogue:
    """Return what a catalogue file says that routes depend on: names, tasks, regions; raise BadConfiguration."""
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
        entries: list[dict[str, Any]] = document["models"]
        return Catalogue.of(
            ModelCard(name=each["name"], task=Task(each["task"]), region=each.get("region", "")) for each in entries
        )
    except OSError as error:
        raise BadConfiguration([f"the catalogue {path} cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadConfiguration([f"the catalogue {path} is wrong; inference says where"]) from error


def check(path: Path, catalogue: Path | None) -> ConfigFile:
    """Return a file that can be used; raise BadConfiguration with every mistake."""
    file, configuration = parse(read_bytes(path))
    wrong = mistakes(configuration, catalogue_of(catalogue)) if catalogue else []
    if wrong:
        raise BadConfiguration(wrong)
    return file


def in_force(path: Path | None) -> ConfigFile:
    """Return the file in force, an empty one where there is none; raise BadConfiguration when it is wrong itself."""
    if path is None or not path.exists():
        return ConfigFile()
    try:
        return check(path, None)
    except BadConfiguration as error:
        raise BadConfiguration([f"in force is a wrong file: {line}" for line in error.lines]) from error


def differences(before: ConfigFile, after: ConfigFile) -> list[dict[str, Any]]:
    """Return each field that differs: its path, and what it says before and after, None where it says nothing."""
    old, new = dict(_fields(before)), dict(_fields(after))
    return [
        {"path": path, "before": old.get(path), "after": new.get(path)}
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def _fields(file: ConfigFile) -> Iterator[tuple[str, Any]]:
    yield from _leaves("", file.model_dump(mode="json", exclude_defaults=True))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not path):
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}".removeprefix("."), inner)
    else:
        yield path, value


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gateway.adapters.config_command", description=__doc__)
    parser.add_argument("action", choices=["check", "diff"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--catalogue", type=Path, help="the model catalogue that the file has to fit")
    parser.add_argument("--live", type=Path, help="the file in force, for diff")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print one JSON object: `problems`, and for diff `changes`; return 1 when there are problems."""
    arguments = _arguments(argv)
    found: dict[str, Any] = {"problems": []}
    try:
        file = check(arguments.file, arguments.catalogue)
        if arguments.action == "diff":
            found["changes"] = differences(in_force(arguments.live), file)
    except BadConfiguration as error:
        found["problems"] = list(error.lines)
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
