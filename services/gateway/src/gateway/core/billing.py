"""One attempt to have a model answer: admitted, paid for in advance, written down, and settled however it ends."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from servicekit.errors import PenstockError
from servicekit.telemetry import trace_id

from gateway.core import arrival
from gateway.core.accounts import Account
from gateway.core.attempts import CANCELLED, FAILED, OK, Attempt, Outcome, Status
from gateway.core.ledger import Ledger, LedgerFull
from gateway.core.load import Gate
from gateway.core.metering import Estimate, Meter, Reservation
from gateway.core.models import ModelCard
from gateway.core.retries import RetryLinks
from gateway.core.slo import SloTracker

CALLERS_OWN: Final = frozenset(
    {"invalid_input", "unsupported_parameter", "context_length_exceeded", "model_not_found", "wrong_task"}
)
"""Reasons that say nothing of how well a route is served."""

LEDGER_RETRY_S: Final = 5.0


@dataclass(slots=True)
class Call:
    """One call of a caller, which may take several attempts: `kind` is `chat`, `embed`, `ask` or `tensor`."""

    kind: str
    alias: str
    account: Account
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")
    attempts: int = 0
    cost_nanos: int = 0
    retry_of: str = ""


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
    clock_s: Callable[[], float] = time.monotonic
    on_first_byte: Callable[[], None] | None = None

    def began(self) -> None:
        """Note the first byte of the answer; later ones change nothing."""
        if self.first_byte_s is None:
            self.first_byte_s = self.clock_s()
            if self.on_first_byte is not None:
                self.on_first_byte()

    def counted(self, input_tokens: int, output_tokens: int, cached_input_tokens: int = 0) -> None:
        """Take over what the backend counted."""
        self.input_tokens, self.output_tokens = input_tokens, output_tokens
        self.cached_input_tokens, self.reported = cached_input_tokens, True

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


class Billing:
    """Holds every attempt to its account's limits, and leaves exactly one row of each in the ledger."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def open(self, kind: str, alias: str, account: Account) -> Call:
        """Begin a call, linked to the one that it retries."""
        call = Call(kind, alias, account)
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
            try:
                yield bill
                bill.began()
                bill.status, bill.reason = OK, ""
            except PenstockError as error:
                bill.status, bill.reason = FAILED, error.reason
                raise
            except Exception:
                bill.status, bill.reason = FAILED, "internal_error"
                raise
            finally:
                books.ledger.end(attempt.id, bill.outcome(books.clock_s()))
                call.cost_nanos += bill.cost_nanos
                self._judge(call, bill)
                await self._settle(reservation, bill)

    async def _begin(self, account: Account, attempt: Attempt, estimate: Estimate) -> Reservation:
        """Reserve and write down, or neither: nothing has been asked yet."""
        reservation = await self._books.meter.reserve(account, attempt.id, estimate)
        try:
            self._books.ledger.begin(attempt)
        except PenstockError:
            await asyncio.shield(self._books.meter.release(reservation))
            raise
        return reservation

    def _judge(self, call: Call, bill: Bill) -> None:
        """Hold what a caller saw against the route's promise; what he gave up, or got wrong himself, is not judged."""
        if bill.status == OK:
            self._books.slo.record(call.alias, True, (bill.first_byte_s or bill.begun_s) - bill.queued_s)
        elif bill.status == FAILED and bill.reason not in CALLERS_OWN:
            self._books.slo.record(call.alias, False)

    async def _settle(self, reservation: Reservation, bill: Bill) -> None:
        """Settle even when the caller has just left: what was taken was taken."""
        if reservation.is_open:
            tokens = bill.input_tokens + bill.output_tokens
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
