"""Makes this service's fakes importable as `feature_store_fakes`; every service has a fakes.py."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("feature_store_fakes", Path(__file__).with_name("fakes.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules.setdefault("feature_store_fakes", _module)
_spec.loader.exec_module(sys.modules["feature_store_fakes"])
