"""Makes each service's tests/fakes.py importable under a name of its own, such as `embedding_fakes`."""

import importlib.util
import sys
from pathlib import Path

for _file in sorted(Path(__file__).parent.glob("services/*/tests/fakes.py")):
    _name = _file.parents[1].name.replace("-", "_") + "_fakes"
    _spec = importlib.util.spec_from_file_location(_name, _file)
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])
