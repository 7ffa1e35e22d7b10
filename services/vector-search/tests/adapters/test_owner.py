"""One owner per data directory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vector_search.adapters.owner import OwnedByAnother, owning

HOLD = """
import sys
from pathlib import Path
from vector_search.adapters.owner import owning
with owning(Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.read()
"""


def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"owned\n"
        start = time.monotonic()
        with pytest.raises(OwnedByAnother, match=rf"process {first.pid} on "), owning(tmp_path):
            pass
        assert time.monotonic() - start < 10  # it does not wait for the first
        first.kill()
    with owning(tmp_path):
        assert str(os.getpid()) in (tmp_path / "owner.json").read_text()
