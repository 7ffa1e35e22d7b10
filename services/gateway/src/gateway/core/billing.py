"""One attempt to have a model answer: admitted, paid for in advance, written down, and settled however it ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, Self

from servicekit.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    PenstockError,
    QuotaExceeded,
    Unauthenticated,
)
from servicekit.telemetry import trace_id

from gateway.core import arrival
from gateway.core.accounts import Account
from gateway.core.attempts import CANCELLED, FAILED, OK, Attempt, Outcome, Status
from gateway.core.call_measures import CallMeasures, Took
from gateway.core.ids import new_id
from gateway.core.ledger import Ledger, LedgerFull
from gateway.core.load import Gate
from gateway.core.metering import Estimate, Meter, Reservation
from gateway.core.models import ModelCard
from gateway.core.retries import RetryLinks
from gateway.core.slo import SloTracker

CALLERS_OWN: Final = (InvalidInput, Unauthenticated, Forbidden, NotFound, Conflict, QuotaExceeded)
"""Kinds of errors that say nothing of how well a route is served."""

NAMED: Final = frozenset({"chat", "embed", "tensor"})
"""Kinds of calls whose caller names a model or an alias, and not a knowledge base of his."""

UNNAMED: Final = ("", "", "")
LEDGER_RETRY_S: Final = 5.0


@dataclass(slots=True)
class Call:
    """One call of a caller, open inside `with`, which may take several attempts.

    `kind` is `chat`, `embed`, `ask`, `search`, `ingest` or `tensor`; `bill` is that of the last attempt.
    """

    kind: str
    alias: str
    account: Account
    on_end: Callable[["Call", BaseException | None], None]
    opened_s: float
    id: str = field(default_factory=partial(new_id, "call_"))
    attempts: int = 0
    cost_nanos: int = 0
    retry_of: str = ""
    bill: "Bill | None" = None

    def __enter__(self) -> Self:
        """Return the call."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Count the call, and how it ended."""
        self.on_end(self, error)


@dataclass(slots=True)
class Bill:
    """What an attempt took, as far as is known: filled in while it runs, read when it ends. Moments are in seconds."""

    card: ModelCard
    queued_s: float = 0.0
    begun_s: float = 0.0
    status: Status = CANCELLED
    reason: str = "client_gone"
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reported: bool = False
    version: str = ""
    digest: str = ""
    first_byte_s: float | None = None
    streamed: bool = False
    backend_s: float = 0.0
    clock_s: Callable[[], float] = time.monotonic
    on_first_byte: Callable[[], None] | None = None
    reservation: Reservation | None = None

    def began(self) -> None:
        """Note the first byte of a stream; later ones change nothing."""
        if not self.streamed:
            self.streamed = True
            self._noted()

    def answered(self) -> None:
        """Note that the whole answer is there."""
        self.status, self.reason = OK, ""
        if not self.streamed:
            self._noted()

    @property
    def is_due(self) -> bool:
        """Whether what is reserved has to be kept now; cheap enough for every piece of a stream."""
        held = self.reservation
        return held is not None and held.is_open and self.clock_s() >= held.renew_at_s

    def _noted(self) -> None:
        self.first_byte_s = self.clock_s()
        if self.on_first_byte is not None:
            self.on_first_byte()

    def counted(self, input_tokens: int, output_tokens: int, cached_input_tokens: int = 0) -> None:
        """Take over what the backend counted."""
        self.input_tokens, self.output_tokens = input_tokens, output_tokens
        self.cached_input_tokens, self.reported = cached_input_tokens, True

    def presume(self, input_tokens: int) -> None:
        """Take over what a backend has probably read whose caller left before it had counted anything."""
        if self.status == CANCELLED and not (self.input_tokens or self.output_tokens):
            self.input_tokens = input_tokens

    @property
    def cost_nanos(self) -> int:
        """What it costs as it stands."""
        return self.card.price.cost_nanos(self.input_tokens, self.output_tokens)

    def outcome(self, ended_s: float) -> Outcome:
        """Return the row's second half."""
        first_s = self.first_byte_s
        return Outcome(
            status=self.status,
            reason=self.reason,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_input_tokens=self.cached_input_tokens,
            reported=self.reported,
            cost_nanos=self.cost_nanos,
            model_version=self.version,
            digest=self.digest,
            provider=self.card.provider,
            region=self.card.region,
            queue_ms=(self.begun_s - self.queued_s) * 1e3,
            first_token_ms=None if first_s is None else (first_s - self.begun_s) * 1e3,
            duration_ms=(ended_s - self.begun_s) * 1e3,
        )


@dataclass(frozen=True, slots=True)
class Books:
    """Where attempts are admitted, limited, written down and judged."""

    gate: Gate
    meter: Meter
    ledger: Ledger
    slo: SloTracker
    links: RetryLinks
    clock_s: Callable[[], float] = time.monotonic
    now_s: Callable[[], float] = time.time


def _models(call: Call) -> tuple[str, str, str]:
    """Return provider, model asked for and model asked, as far as the catalogue names them: tenants name the others."""
    asked = call.alias if call.kind in NAMED else ""
    if call.bill is None:
        return "", asked, ""
    return call.bill.card.provider, asked, call.bill.card.name


class Billing:
    """Holds every attempt to its account's limits, and leaves exactly one row of each in the ledger."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._measures = CallMeasures()

    def open(self, kind: str, alias: str, account: Account) -> Call:
        """Begin a call, linked to the one that it retries."""
        call = Call(kind, alias, account, self._ended, self._books.clock_s())
        came = arrival.current()
        if came.fingerprint:
            owner = (account.tenant, account.key_id)
            call.retry_of = self._books.links.link(owner, came.fingerprint, call.id, came.retry_count)
        return call

    @asynccontextmanager
    async def attempt(self, call: Call, card: ModelCard, estimate: Estimate) -> AsyncIterator[Bill]:
        """Ask one model inside the block.

        Raises, before anything is asked: Overloaded, DeadlineUnreachable, RateLimited, BudgetExhausted, LedgerFull.
        """
        books = self._books
        if not books.ledger.usable():
            raise LedgerFull("the ledger takes no more calls now", retry_after_s=LEDGER_RETRY_S)
        queued_s = books.clock_s()
        async with books.gate.admitted(call.account, card.name) as slot:
            call.attempts += 1
            attempt = self._attempt(call, card, estimate)
            reservation = await self._begin(call.account, attempt, estimate)
            bill = Bill(card, queued_s, books.clock_s(), clock_s=books.clock_s, on_first_byte=slot.first_byte)
            bill.reservation, call.bill = reservation, bill
            try:
                yield bill
                bill.answered()
            except PenstockError as error:
                bill.status, bill.reason = FAILED, error.reason
                raise
            except Exception:
                bill.status, bill.reason = FAILED, "internal_error"
                raise
            finally:
                bill.presume(estimate.likely_input_tokens)
                books.ledger.end(attempt.id, bill.outcome(books.clock_s()))
                call.cost_nanos += bill.cost_nanos
                await self._settle(reservation, bill)

    @asynccontextmanager
    async def only(self, call: Call, card: ModelCard, estimate: Estimate) -> AsyncIterator[Bill]:
        """Make a call of one attempt; errors are those of `attempt`."""
        with call:
            async with self.attempt(call, card, estimate) as bill:
                yield bill

    async def _begin(self, account: Account, attempt: Attempt, estimate: Estimate) -> Reservation:
        """Reserve and write down, or neither: nothing has been asked yet."""
        reservation = await self._books.meter.reserve(account, attempt.id, estimate)
        try:
            self._books.ledger.begin(attempt)
        except PenstockError:
            await asyncio.shield(self._books.meter.release(reservation))
            raise
        return reservation

    async def renew(self, bill: Bill) -> None:
        """Keep what an attempt has reserved while it goes on."""
        if bill.reservation is not None:
            await self._books.meter.renew(bill.reservation)

    def unserved(self, kind: str, alias: str, error: PenstockError) -> None:
        """Count a call that could not even be opened: nothing was there to serve it."""
        if not isinstance(error, CALLERS_OWN):
            self._books.slo.record(alias, False)
            self._measures.failed(kind, UNNAMED, error, 0.0)

    def _ended(self, call: Call, error: BaseException | None) -> None:
        """Hold what a caller saw against the route's promise; what he gave up, or got wrong himself, is not judged."""
        bill, duration_s = call.bill, self._books.clock_s() - call.opened_s
        models = _models(call)
        if error is not None or bill is None:
            if error is not None:
                self._measures.failed(call.kind, models, error, duration_s)
            if isinstance(error, Exception) and not isinstance(error, CALLERS_OWN):
                self._books.slo.record(call.alias, False)
            return
        first_s = (bill.first_byte_s or bill.begun_s) - call.opened_s
        self._books.slo.record(call.alias, True, first_s)
        backend_s = bill.backend_s if call.attempts == 1 else 0.0
        tokens = (bill.input_tokens, bill.output_tokens, bill.reported)
        took = Took(duration_s, first_s if bill.streamed else None, backend_s, *tokens)
        self._measures.served(call.kind, models, took)

    async def _settle(self, reservation: Reservation, bill: Bill) -> None:
        """Settle even when the caller has just left: what was taken was taken."""
        tokens = bill.input_tokens + bill.output_tokens
        if not self._books.meter.settle_now(reservation, tokens, bill.cost_nanos):
            await asyncio.shield(self._books.meter.settle(reservation, tokens, bill.cost_nanos))

    def _attempt(self, call: Call, card: ModelCard, estimate: Estimate) -> Attempt:
        account, came = call.account, arrival.current()
        return Attempt(
            id=f"{call.id}.{call.attempts}",
            call_id=call.id,
            number=call.attempts,
            kind=call.kind,
            tenant=account.tenant,
            project=account.project,
            key_id=account.key_id,
            principal=account.principal,
            model=card.name,
            alias=call.alias,
            door=came.door,
            priority=int(account.priority),
            reserved_nanos=estimate.cost_nanos,
            input_price_micros=card.price.input_micros,
            output_price_micros=card.price.output_micros,
            retry_of=call.retry_of,
            retry_count=came.retry_count,
            idempotency_key=came.fingerprint,
            trace_id=trace_id(),
            started_at=self._books.now_s(),
        )
