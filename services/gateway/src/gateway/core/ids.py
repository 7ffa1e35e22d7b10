"""Ids that sort by the moment they were made, so that rows in their order are neighbours in an index."""

import time
from random import getrandbits


def new_id(prefix: str) -> str:
    """Return an id: the prefix, the milliseconds since 1970 and 48 random bits, in 24 hexadecimal digits.

    It names and does not protect: whoever may read something by its id is decided elsewhere.
    """
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{getrandbits(48):012x}"
