"""Generates the Python messages, stubs and type stubs of every proto into protos/gen; run it by `make protos`."""

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parent


def generate(target: Path) -> None:
    """Write the generated code of all protos into `target`; raise RuntimeError when protoc refuses one."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("penstock/**/*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}={target}" for kind in ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")]
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *outputs, *sources]) != 0:
        raise RuntimeError("protoc refused a proto")
    (target / "penstock" / "py.typed").touch()


def differences(expected: Path, actual: Path) -> list[str]:
    """Return the relative paths of files that differ between two folders or are in one of them only."""
    names = {
        path.relative_to(folder)
        for folder in (expected, actual)
        for path in folder.rglob("*.py*")
        if path.suffix != ".pyc"
    }
    return sorted(
        str(name)
        for name in names
        if not (expected / name).is_file()
        or not (actual / name).is_file()
        or not filecmp.cmp(expected / name, actual / name, shallow=False)
    )


def main() -> int:
    """Generate in place, or with `--check` say what is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when code is out of date")
    committed = ROOT / "gen"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        if not parser.parse_args().check:
            generate(fresh)
            shutil.rmtree(committed, ignore_errors=True)
            shutil.copytree(fresh, committed)
            return 0
        generate(fresh)
        stale = differences(fresh, committed)
    if stale:
        sys.stderr.write("out of date, run `make protos`: " + ", ".join(stale) + "\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
