"""The headers in which OpenAI's API tells how a caller's limits stand."""

from gateway.core import quotas
from gateway.core.limit_ports import Quota


def quota_headers() -> list[tuple[bytes, bytes]]:
    """Return `x-ratelimit-*` for the call at hand; none for what is not limited."""
    told = quotas.told()
    return [*_of(b"requests", told.requests), *_of(b"tokens", told.tokens)] if any(told) else []


def _of(what: bytes, quota: Quota | None) -> list[tuple[bytes, bytes]]:
    if quota is None:
        return []
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % quota.limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % quota.remaining),
        (b"x-ratelimit-reset-" + what, _duration(quota.reset_s)),
    ]


def _duration(seconds: float) -> bytes:
    """Return a time as OpenAI writes it: `20ms`, `7.3s`, `1m0s`."""
    if seconds < 1:
        return b"%dms" % max(1, round(seconds * 1e3))
    minutes, rest = divmod(round(seconds, 1), 60)
    return (f"{minutes:.0f}m" if minutes else "").encode() + f"{rest:g}s".encode()
