"""Turns what a caller presents into the key it is, from memory where it can."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from servicekit.errors import Unauthenticated, Unavailable

from gateway.core.keys import ApiKey, parse_key_text
from gateway.core.ports import KeyStore

CACHE_S: Final = 4.0
"""How long a key is believed before it is looked up again; a revocation is live everywhere within 5 s."""

KNOWN_KEYS: Final = 10_000
UNKNOWN_KEYS: Final = 1_000
LONGEST_KEY: Final = 256

Entry = TypeVar("Entry")


class InvalidApiKey(Unauthenticated):
    """No key, a wrong one, a revoked one or an expired one; the caller is not told which of the last three."""

    default_reason = "invalid_api_key"


def wall_clock() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


class KeyRing:
    """Finds keys by their text. Secrets are not held in memory: what is remembered is filed under their hash."""

    def __init__(
        self,
        store: KeyStore,
        now: Callable[[], datetime] = wall_clock,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._now = now
        self._clock_s = clock_s
        self._known: OrderedDict[bytes, tuple[ApiKey, float]] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()

    async def resolve(self, text: str | None) -> ApiKey:
        """Return the live key that `text` is; raise InvalidApiKey when it is none."""
        if not text or len(text) > LONGEST_KEY:
            raise InvalidApiKey("an API key is needed, as `Authorization: Bearer KEY`")
        digest, clock_s = hashlib.sha256(text.encode(errors="replace")).digest(), self._clock_s()
        known = self._known.get(digest)
        if known is not None and known[1] > clock_s:
            return self._live(known[0])
        if self._unknown.get(digest, 0.0) > clock_s:
            raise InvalidApiKey("the API key is not valid")
        key = await self._look_up(text)
        if key is None:
            _remember(self._unknown, digest, clock_s + CACHE_S, UNKNOWN_KEYS)
            raise InvalidApiKey("the API key is not valid")
        _remember(self._known, digest, (key, clock_s + CACHE_S), KNOWN_KEYS)
        return self._live(key)

    async def check(self) -> str | None:
        """Say why keys cannot be looked up now, or None when they can."""
        try:
            await self._store.find("")
        except Unavailable as error:
            return error.message
        return None

    async def _look_up(self, text: str) -> ApiKey | None:
        parts = parse_key_text(text)
        if parts is None:
            return None
        public_id, secret = parts
        key = await self._store.find(public_id)
        return key if key is not None and key.opens_with(secret) else None

    def _live(self, key: ApiKey) -> ApiKey:
        if not key.is_live(self._now()):
            raise InvalidApiKey("the API key is not valid")
        return key


def _remember(entries: OrderedDict[bytes, Entry], digest: bytes, entry: Entry, limit: int) -> None:
    entries[digest] = entry
    entries.move_to_end(digest)
    if len(entries) > limit:
        entries.popitem(last=False)
