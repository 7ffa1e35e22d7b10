"""The public keys that an issuer of tokens signs with, fetched when needed and kept through his outages."""

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from servicekit.errors import Unavailable

from gateway.core.ports import KeySetSource

REFRESH_S: Final = 300.0
"""How old a key set may be before it is fetched again; a key that the issuer withdrew works no longer than this."""
STALE_S: Final = 3_600.0
"""How long known keys still count while the issuer cannot be reached."""
REFETCH_S: Final = 10.0
"""The least time between two fetches, however many unknown key ids are presented."""
CANCELLED_S: Final = 1.0
"""The least time after a fetch that ended because the caller who waited for it left."""
MOST_KEYS: Final = 64

log = logging.getLogger(__name__)


class KeySet:
    """The keys of one issuer by key id."""

    def __init__(self, source: KeySetSource, url: str, clock_s: Callable[[], float]) -> None:
        self._source = source
        self._url = url
        self._clock_s = clock_s
        self._keys: Mapping[str, Mapping[str, Any]] = {}
        self._fetched_s = float("-inf")
        self._tried_s = float("-inf")
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str) -> Mapping[str, Any] | None:
        """Return the JWK with this id, or None when the issuer has none; raise Unavailable when nobody can tell."""
        if self._needs_fetch(key_id):
            await self._fetch(key_id)
        age_s = self._clock_s() - self._fetched_s
        known = self._keys.get(key_id)
        if age_s > STALE_S or (known is None and self._fetched_s < self._tried_s):
            raise Unavailable(
                "the issuer of the token cannot be reached", reason="issuer_unreachable", retry_after_s=REFETCH_S
            )
        return known

    def _needs_fetch(self, key_id: str) -> bool:
        if self._clock_s() - self._tried_s < REFETCH_S:
            return self._fetching.locked() and key_id not in self._keys
        return key_id not in self._keys or self._clock_s() - self._fetched_s >= REFRESH_S

    async def _fetch(self, key_id: str) -> None:
        if self._fetching.locked() and key_id in self._keys:
            return
        async with self._fetching:
            moment_s = self._clock_s()
            if moment_s - self._tried_s < REFETCH_S:
                return
            self._tried_s = moment_s
            try:
                found = await self._source.fetch(self._url)
            except asyncio.CancelledError:
                self._tried_s = moment_s - REFETCH_S + CANCELLED_S
                raise
            except Unavailable as error:
                log.warning("the keys of %s cannot be fetched: %s", self._url, error.message)
                return
            self._keys = _by_id(found)
            self._fetched_s = moment_s


def _by_id(found: Any) -> dict[str, Mapping[str, Any]]:
    """Return the signing keys by id; one key alone needs no id."""
    signing = [key for key in found if key.get("use", "sig") == "sig" and key.get("kty") in {"RSA", "EC", "OKP"}]
    named = {str(key["kid"]): key for key in signing[:MOST_KEYS] if key.get("kid")}
    return {**named, "": signing[0]} if len(signing) == 1 else named


def check_key_set_url(url: str) -> None:
    """Raise ValueError unless a key set's URL is https, or http on the loopback interface."""
    parts = urlsplit(url)
    if parts.username is not None or parts.fragment or not parts.hostname:
        raise ValueError("jwks_url has to be a plain URL, without user and fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ValueError("jwks_url has to be https; http is for the loopback interface alone")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
