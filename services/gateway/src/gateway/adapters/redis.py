"""Counts limits in Redis, where all processes see them: one script and one round trip per operation."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha1
from pathlib import Path
from typing import Any, Final

from gateway.adapters.redis_link import RedisLink, ScriptUnknown
from gateway.core.accounts import Limits, Subject
from gateway.core.budgets import start_of
from gateway.core.limit_ports import (
    Ask,
    DuplicateReservation,
    Grant,
    Measure,
    Purse,
    Quota,
    Refusal,
    Unseeded,
    Used,
    is_leased,
)
from gateway.core.rates import KEPT_S

TIMEOUT_S: Final = 0.05
MICROS: Final = 1_000_000
GRANTED, REFUSED, UNSEEDED = 1, 2, 3
NONE: Final = -1
MEASURES: Final = (Measure.REQUESTS, Measure.TOKENS, Measure.CONCURRENCY, Measure.DAY, Measure.MONTH)
SCRIPTS: Final = Path(__file__).parent / "redis_scripts"


class Script:
    """A script with what all of them share before it; known to Redis by its digest."""

    __slots__ = ("digest", "source")

    def __init__(self, name: str) -> None:
        parts = (SCRIPTS / "counting.lua", SCRIPTS / f"{name}.lua")
        self.source = "\n".join(part.read_text(encoding="utf-8") for part in parts)
        self.digest = sha1(self.source.encode(), usedforsecurity=False).hexdigest()


RESERVE: Final = Script("reserve")
SETTLE: Final = Script("settle")
RENEW: Final = Script("renew")
SEED: Final = Script("seed")


def no_shift() -> float:
    """Let the clock of Redis be as it is."""
    return 0.0


class RedisLimits:
    """Implements LimitStore. Every question is answered within the link's timeout or raises RedisUnavailable.

    The clock is that of Redis, `shift_s` seconds later. All keys of a tenant have one hash tag, so that a cluster keeps
    them together; all of them expire.
    """

    def __init__(self, redis: RedisLink, shift_s: Callable[[], float] = no_shift) -> None:
        self._redis = redis
        self._shift_s = shift_s

    async def reserve(self, ask: Ask) -> Grant | Refusal | Unseeded:
        """Reserve of every subject or of none; raise DuplicateReservation when the same reservation is open."""
        arguments: list[Any] = [
            ask.id,
            int(ask.lease_s * MICROS),
            ask.tokens,
            ask.cost_nanos,
            int(ask.verified_after_s * MICROS),
        ]
        for subject in ask.subjects:
            arguments += [NONE if limit is None else limit for limit in _limits(subject.limits)]
        answer = await self._run(RESERVE, _keys(ask), arguments)
        if answer[0] == GRANTED:
            return _grant(ask, answer)
        if answer[0] == REFUSED:
            return _refusal(ask, answer)
        if answer[0] == UNSEEDED:
            return Unseeded(tuple(_purse(ask, code, answer[1], answer[2]) for code in answer[3:]))
        raise DuplicateReservation(f"the reservation {ask.id!r} is open already")

    async def settle(self, grant: Grant, used: Used, late: bool = False) -> None:
        """Replace what was reserved by what was used."""
        ask = grant.ask
        if used.requests and not any(_changes(subject.limits, used.tokens != ask.tokens) for subject in ask.subjects):
            return
        arguments: list[Any] = [ask.id, round(grant.at_s * MICROS), ask.tokens, ask.cost_nanos, grant.day, grant.month]
        arguments += [*used, int(late)]
        for subject in ask.subjects:
            arguments += [0 if limit is None else 1 for limit in _limits(subject.limits)]
        await self._run(SETTLE, _keys(ask), arguments)

    def settle_now(self, grant: Grant, used: Used) -> bool:  # noqa: ARG002  the signature is the port's
        """Return False: the server has to be waited for."""
        return False

    async def renew(self, grant: Grant, lease_s: float) -> None:
        """Let an open reservation stand for `lease_s` seconds from now."""
        keys: list[str] = []
        names: list[str] = []
        for subject in grant.ask.subjects:
            limits = subject.limits
            if is_leased(limits):
                keys += _subject_keys(grant.ask.tenant, subject)[2:]
                day = NONE if limits.budget_day_nanos is None else grant.day
                month = NONE if limits.budget_month_nanos is None else grant.month
                names.append(f"{grant.ask.id}|{grant.ask.cost_nanos}|{day}|{month}")
        if keys:
            await self._run(RENEW, keys, [int(lease_s * MICROS), *names])

    async def seed(self, tenant: str, purse: Purse, spent_nanos: int) -> None:
        """Take what the ledger says was spent."""
        key = _subject_keys(tenant, purse.subject)[3]
        prefix = "d" if purse.measure is Measure.DAY else "m"
        await self._run(SEED, [key], [prefix, purse.number, spent_nanos])

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        shift = int(self._shift_s() * MICROS)
        try:
            return await self._redis.evalsha(script.digest, len(keys), *keys, shift, *arguments)
        except ScriptUnknown:
            return await self._redis.eval(script.source, len(keys), *keys, shift, *arguments)


@asynccontextmanager
async def redis_limits(
    url: str, timeout_s: float = TIMEOUT_S, shift_s: Callable[[], float] = no_shift
) -> AsyncIterator[RedisLimits]:
    """Open RedisLimits at a redis://, rediss:// or unix:// address; the connection is made when it is needed.

    `timeout_s` is how long a question may take, and a new connection with its handshakes.
    """
    link = RedisLink(url, timeout_s)
    try:
        yield RedisLimits(link, shift_s)
    finally:
        link.close()


def _limits(limits: Limits) -> tuple[int | None, ...]:
    return (
        limits.requests_per_minute,
        limits.tokens_per_minute,
        limits.concurrent_requests,
        limits.budget_day_nanos,
        limits.budget_month_nanos,
    )


def _changes(limits: Limits, tokens_differ: bool) -> bool:
    """Say whether settling a request that was made changes anything."""
    return is_leased(limits) or (tokens_differ and limits.tokens_per_minute is not None)


def _subject_keys(tenant: str, subject: Subject) -> tuple[str, str, str, str]:
    """Return the keys of requests, tokens, leases and budgets; the id stands last, so no two subjects share one."""
    place, who = f"penstock:{{limits:{tenant}}}:", f":{subject.kind}:{subject.id}"
    return f"{place}r{who}", f"{place}t{who}", f"{place}l{who}", f"{place}b{who}"


def _keys(ask: Ask) -> list[str]:
    return [key for subject in ask.subjects for key in _subject_keys(ask.tenant, subject)]


def _purse(ask: Ask, code: int, day: int, month: int) -> Purse:
    subject = ask.subjects[code // 2]
    if code % 2:
        return Purse(subject, Measure.MONTH, month, shared=True)
    return Purse(subject, Measure.DAY, day, shared=True)


def _grant(ask: Ask, answer: Sequence[int]) -> Grant:
    _, now, day, month, by_requests, requests, by_tokens, tokens, *unchecked = answer
    reset_s = now // MICROS + KEPT_S - now / MICROS
    requests_limit = None if by_requests < 0 else ask.subjects[by_requests].limits.requests_per_minute
    tokens_limit = None if by_tokens < 0 else ask.subjects[by_tokens].limits.tokens_per_minute
    return Grant(
        ask,
        now / MICROS,
        day,
        month,
        None if requests_limit is None else Quota(requests_limit, requests, reset_s),
        None if tokens_limit is None else Quota(tokens_limit, tokens, reset_s),
        tuple(_purse(ask, code, day, month) for code in unchecked),
        shared=True,
    )


def _refusal(ask: Ask, answer: Sequence[int]) -> Refusal:
    _, now, day, month, index, place, wait, left = answer
    subject, measure = ask.subjects[index], MEASURES[place]
    limit, now_s = _limits(subject.limits)[place] or 0, now / MICROS
    wait_s: float | None = wait / MICROS
    reset_s = 1.0 if measure is Measure.CONCURRENCY else float(KEPT_S)
    if measure in {Measure.DAY, Measure.MONTH}:
        number = day if measure is Measure.DAY else month
        wait_s = reset_s = (start_of(measure, number + 1) - datetime.fromtimestamp(now_s, UTC)).total_seconds()
    return Refusal(subject, measure, None if wait < 0 else wait_s, Quota(limit, left, reset_s))
