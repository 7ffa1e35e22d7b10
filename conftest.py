"""Makes each service's tests/*fakes.py importable by a name of its own, such as `embedding_fakes`."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

FILES = {
    f"{file.parents[1].name}_{file.stem}".replace("-", "_"): file
    for file in Path(__file__).parent.glob("services/*/tests/*fakes.py")
}


class FakesFinder(MetaPathFinder):
    """Finds the fakes when a test asks for them, so that one service's tests need no other service."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  the signature is importlib's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return where a module of fakes is, or None for any other module."""
        file = FILES.get(fullname)
        return None if file is None else importlib.util.spec_from_file_location(fullname, file)


sys.meta_path.append(FakesFinder())
