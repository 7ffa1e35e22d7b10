"""Puts the model's own modules on the path, as Triton does, and offers a reader over a fake encoder."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
for folder in (FOLDER / "triton", Path(__file__).resolve().parent):
    sys.path.insert(0, str(folder))
