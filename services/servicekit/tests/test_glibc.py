"""What is given back and fetched again for each large request costs page faults, which a process counts for itself."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from servicekit.glibc import keep_large_blocks
if sys.argv[1] == "keep" and not keep_large_blocks():
    sys.exit(3)
warm = [bytes(7_000_000) for _ in range(2)]
del warm
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    first, second = bytearray(7_000_000), bytearray(7_000_000)
    first[::4096] = second[::4096] = b"x" * len(first[::4096])
    del first, second
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False)
    if ran.returncode == 3:
        pytest.skip("this C library has no such parameters")
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def test_large_blocks_are_kept_for_the_next_request() -> None:
    usual, kept = faults("leave"), faults("keep")
    assert usual > 50 * 1000
    assert kept < usual / 10
