"""Makes the fakes importable: the service's folder has a hyphen, which an import statement cannot name."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("vector_search_fakes", Path(__file__).with_name("fakes.py"))
assert _spec is not None
assert _spec.loader is not None
_fakes = module_from_spec(_spec)
sys.modules["vector_search_fakes"] = _fakes
_spec.loader.exec_module(_fakes)
