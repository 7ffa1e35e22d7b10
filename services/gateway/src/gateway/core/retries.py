"""Links a client's retry to the call it retries, so that a second charge can be told from a second question."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

REMEMBERED: Final = 20_000
REMEMBERED_S: Final = 3600.0
EDGE_BYTES: Final = 32 * 1024
KEYED: Final = "key:"


def fingerprint(idempotency_key: str, body: bytes) -> str:
    """Return what two tries of one client call have in common: `key:` or `body:` and 32 hexadecimal digits.

    That is the idempotency key where there is one, else the body; of a body above 64 KiB its length and its first and
    last 32 KiB. Neither can be read back from it.
    """
    if idempotency_key:
        return KEYED + hashlib.blake2b(idempotency_key.encode(errors="replace"), digest_size=16).hexdigest()
    if len(body) > 2 * EDGE_BYTES:
        body = b"%d:%b%b" % (len(body), body[:EDGE_BYTES], body[-EDGE_BYTES:])
    return "body:" + hashlib.blake2b(body, digest_size=16).hexdigest()


def is_retry(print_: str, retry_count: int) -> bool:
    """Say whether a client calls this a retry, or might: two equal bodies without that are two questions."""
    return retry_count > 0 or print_.startswith(KEYED)


class RetryLinks:
    """Remembers calls by what they asked, at most `limit` of them for `lifetime_s` seconds, in this process alone.

    Retries that reach another process are linked by the ledger's store when their row gets there.
    """

    def __init__(
        self,
        limit: int = REMEMBERED,
        lifetime_s: float = REMEMBERED_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._lifetime_s = lifetime_s
        self._clock_s = clock_s
        self._calls: OrderedDict[tuple[str, str, str], tuple[str, float]] = OrderedDict()

    def link(self, owner: tuple[str, str], print_: str, call_id: str, retry_count: int) -> str:
        """Remember a call of an owner (tenant and key) by its fingerprint; return the call it retries, or nothing.

        `retry_count` is what the client says: the official ones send it as `x-stainless-retry-count`.
        """
        place, clock_s = (*owner, print_), self._clock_s()
        earlier, until_s = self._calls.pop(place, ("", 0.0))
        self._calls[place] = call_id, clock_s + self._lifetime_s
        if len(self._calls) > self._limit:
            self._calls.popitem(last=False)
        return earlier if is_retry(print_, retry_count) and until_s > clock_s else ""
