"""Writes, or with --check compares, all that is derived: `python -m deploy.rendering [--check]`."""

import argparse
import sys
from pathlib import Path

from deploy.rendering import kustomize
from deploy.rendering.chart import CHART, DEPLOY
from deploy.rendering.schema import values_schema

TABLE = DEPLOY / "services.yaml"


def first() -> dict[Path, str]:
    """Return what the chart itself needs before it can be rendered."""
    return {CHART / "services.yaml": TABLE.read_text("utf-8"), CHART / "values.schema.json": values_schema()}


def manifests() -> dict[Path, str]:
    """Return the plain manifests, which are rendered from the chart."""
    return {kustomize.FOLDER / name: text for name, text in kustomize.files().items()}


def stale(derived: dict[Path, str]) -> list[Path]:
    """Return the files that are not as they should be."""
    return [path for path, text in derived.items() if not path.exists() or path.read_text("utf-8") != text]


def write(derived: dict[Path, str]) -> None:
    """Write the files that are not as they should be."""
    for path in stale(derived):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(derived[path], "utf-8")


def left_over(derived: dict[Path, str]) -> list[Path]:
    """Return generated manifests that nothing makes any more."""
    found = [path for folder in ("base", "overlays") for path in (kustomize.FOLDER / folder).rglob("*.yaml")]
    return [path for path in found if path not in derived]


def main() -> int:
    """Return 0, or with --check 1 when something is stale."""
    parser = argparse.ArgumentParser(prog="deploy.rendering", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when something is stale")
    check = parser.parse_args().check
    if not check:
        write(first())
    plain = manifests()
    if not check:
        write(plain)
        for path in left_over(plain):
            path.unlink()
    old = [*stale(first()), *stale(plain), *left_over(plain)]
    for path in old:
        sys.stderr.write(f"{path.relative_to(DEPLOY.parent)} is not what `make chart` makes\n")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
