"""Memory that was freed is there for the next body: it does not come from the kernel anew, page by page."""

import resource
import subprocess
import sys

PAGE_BYTES = resource.getpagesize()
BODY_BYTES = 5_000_000
HELD, BODIES = 5, 20
USE = f"""
import resource
from servicekit import memory

def take_in():
    held = [b"x" * {BODY_BYTES} for _ in range({HELD})]

assert memory.keep_freed()
take_in()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({BODIES}):
    take_in()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=True)

    of_one_body = BODY_BYTES // PAGE_BYTES
    assert int(done.stdout) < of_one_body  # of the hundred buffers; without it, all of them
