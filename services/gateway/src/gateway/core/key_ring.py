"""Turns the API key that a caller presents into his account, from memory where it can."""

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from servicekit.errors import Unauthenticated, Unavailable

from gateway.core.accounts import Account
from gateway.core.caller_cache import CallerCache, Resolved
from gateway.core.keys import parse_key_text
from gateway.core.ports import KeyStore

LONGEST_KEY: Final = 256


class InvalidApiKey(Unauthenticated):
    """No key, a wrong one, a revoked one or an expired one; the caller is not told which of the last three."""

    default_reason = "invalid_api_key"


def wall_clock() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


class KeyRing:
    """Finds accounts by the text of a key; a key that is revoked or changed is so everywhere within 5 s."""

    def __init__(
        self,
        store: KeyStore,
        now: Callable[[], datetime] = wall_clock,
        clock_s: Callable[[], float] = time.monotonic,
        outage_s: float = 0.0,
    ) -> None:
        """`outage_s`: how long a key found earlier is believed while the store cannot be used (seconds)."""
        self._store = store
        self._now = now
        self._clock_s = clock_s
        self._outage_s = outage_s
        self._away_after_s = clock_s()
        self._cache = CallerCache(clock_s, outage_s)

    async def resolve(self, text: str | None) -> Account:
        """Return the account of the live key that `text` is; raise InvalidApiKey when it is none."""
        if not text or len(text) > LONGEST_KEY:
            raise InvalidApiKey("an API key is needed, as `Authorization: Bearer KEY`")
        parts = parse_key_text(text)
        if parts is None:
            raise InvalidApiKey("the API key is not valid")
        public_id, secret = parts

        async def look_up() -> Resolved | None:
            grant = await self._store.find(public_id)
            if grant is None or not grant.key.opens_with(secret):
                return None
            return Resolved(grant.account(), grant.key.ends_at)

        resolved = await self._cache.resolve(hashlib.sha256(text.encode()).digest(), look_up)
        if resolved is None or (resolved.ends_at is not None and self._now() >= resolved.ends_at):
            raise InvalidApiKey("the API key is not valid")
        return resolved.account

    async def check(self) -> str | None:
        """Say why keys cannot be told, or None when they can: for `outage_s` after the last look-up, known ones can."""
        try:
            await self._store.find("")
        except Unavailable as error:
            return None if self._clock_s() < self._away_after_s else error.message
        self._away_after_s = self._clock_s() + self._outage_s
        return None
