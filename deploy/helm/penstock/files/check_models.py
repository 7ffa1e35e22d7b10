"""Says which models a store lacks, before a server starts on it: check_models.py FOLDER MODEL..."""
# ruff: noqa: INP001  a program, not a module of a package

import sys
from pathlib import Path


def main() -> None:
    """Exit with 0 where every model has its configuration, else with those that have none."""
    folder, models = Path(sys.argv[1]), sys.argv[2:]
    missing = [model for model in models if not (folder / model / "config.pbtxt").exists()]
    if missing:
        there = sorted(path.parent.name for path in folder.glob("*/config.pbtxt"))
        holds = ", ".join(there) or "no model"
        sys.exit(f"the model store has no config.pbtxt of: {', '.join(missing)}; it holds: {holds}")


main()
