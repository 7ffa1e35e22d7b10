"""Has a conversation answered by the first model of its route that can: limits, ledger and fallback included."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from types import TracebackType
from typing import Any, Final, Self, cast

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from servicekit import deadline
from servicekit.errors import PenstockError, TimedOut, Unavailable

from gateway.api.backends import Models, Take
from gateway.api.upstream import check_whole, closing, naming
from gateway.core import accounts
from gateway.core.accounts import Account
from gateway.core.billing import Bill, Billing, Call
from gateway.core.cooldowns import Cooldowns, Trial
from gateway.core.metering import Estimate
from gateway.core.models import ModelCard
from gateway.core.pricing import MOST_NANOS
from gateway.core.routes import Needs, Plan, Router, retryable

MOST_TOKENS: Final = 4096
"""Answer tokens of a caller with limits who leaves them open: what is reserved has to bound what is written."""

CHARACTERS_PER_TOKEN: Final = 4


class RoutedChats:
    """Plans, admits, asks and accounts for the models that go on with a conversation."""

    def __init__(self, models: Models, router: Router, cooldowns: Cooldowns, billing: Billing) -> None:
        self.models = models
        self.router = router
        self.cooldowns = cooldowns
        self.billing = billing

    def open(self, model: str, needs: Needs) -> "RoutedCall":
        """Begin a call to a model or an alias; raise what stands against it, before anything is asked."""
        account = accounts.current()
        try:
            plan = self.router.plan(model, needs, account)
        except Unavailable as error:
            self.billing.unserved("chat", model, error)
            raise
        return RoutedCall(self, plan, needs, self.billing.open("chat", plan.route.alias, account))


class RoutedCall:
    """One call, open inside `with`; it is asked twice when an answer has to be repaired."""

    def __init__(self, chats: RoutedChats, plan: Plan, needs: Needs, call: Call) -> None:
        self._chats = chats
        self._plan = plan
        self._needs = needs
        self._call = call
        self._routing = pb.Routing(call_id=call.id)
        for model, reason in plan.skipped:
            self._routing.skipped.add(model=model, reason=reason)

    def __enter__(self) -> Self:
        """Return the call."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Count the call, and how it ended."""
        self._call.__exit__(kind, error, at)

    @property
    def routing(self) -> pb.Routing:
        """What was asked and passed over so far, and what it cost."""
        self._routing.cost_nanos = self._call.cost_nanos
        return self._routing

    async def complete(self, request: inference.CompleteRequest) -> inference.CompleteResponse:
        """Return a whole answer of the first model that gives one."""
        failed: PenstockError | None = None
        refused: inference.CompleteResponse | None = None
        with naming(self._call.alias), _within(self._plan.route.timeout_s):
            for card, trial, last in self._tries():
                try:
                    async with self._attempt(card, trial, request) as bill:
                        with _within(None if last else self._plan.route.attempt_timeout_s):
                            response = await self._chats.models.complete(request)
                        _note_whole(bill, response, self._needs)
                    if last or not self._passed_on(response.choices):
                        return response
                    refused = response
                except PenstockError as error:
                    if (last and refused is None) or not retryable(error):
                        raise
                    failed = error
            if refused is not None:  # nobody else answers
                return refused
            raise failed or self._chats.router.resting(self._plan)

    async def generate(
        self, request: inference.GenerateRequest, take: Take | None = None
    ) -> AsyncGenerator[inference.GenerateResponse, None]:
        """Write an answer piece by piece; a model that fails before its first piece is followed by the next one.

        After the first piece `take` is offered what follows.
        """
        failed: PenstockError | None = None
        refused: list[inference.GenerateResponse] = []
        until_s = _moment(self._plan.route.timeout_s)
        with naming(self._call.alias):
            for card, trial, last in self._tries():
                shown = False
                try:
                    async with (
                        self._attempt(card, trial, request) as bill,
                        closing(self._asked(bill, request, until_s, take)) as asked,
                        closing(self._events(bill, asked, until_s, None if last else refused)) as pieces,
                    ):
                        async for events in pieces:
                            shown = True
                            for event in events:
                                yield event
                    if shown:
                        return
                except PenstockError as error:
                    if shown or (last and not refused) or not _goes_on(error, until_s):
                        raise
                    failed = error
            for event in refused or self._nobody(failed):
                yield event

    def _nobody(self, failed: PenstockError | None) -> list[Any]:
        """Raise what there is to say when no model answered, not even with a refusal."""
        raise failed or self._chats.router.resting(self._plan)

    async def _events(
        self, bill: Bill, asked: AsyncIterator[Any], until_s: float | None, refused: list[Any] | None
    ) -> AsyncIterator[list[inference.GenerateResponse]]:
        """Yield what the model sends; what comes before its first piece is held back until there is one.

        `refused`, which is None for the last model, takes a refusal that the next one may mend: nothing is yielded of
        it. Raises TimedOut when the model does not begin in time, Unavailable when it breaks off.
        """
        patient_until_s = None if refused is None else _moment(self._plan.route.attempt_timeout_s)
        held: list[inference.GenerateResponse] = []
        complete = aside = False
        while True:
            begun = bill.first_byte_s is not None
            if begun:
                event = await anext(asked, None)
            else:
                with _by(until_s):
                    event = await _next(asked, patient_until_s)
            if event is None:
                break
            _note(bill, event, self._needs)
            complete = complete or event.HasField("finished")
            held.append(event)
            if begun or event.deltas or complete:
                aside = aside or (not begun and refused is not None and self._passed_on(event.deltas))
                bill.began()
                if bill.is_due:
                    await self._chats.billing.renew(bill)
                if not aside:
                    yield held
                    held = []
        check_whole(complete)
        if refused is not None and aside:
            refused[:] = held

    def _asked(
        self, bill: Bill, request: inference.GenerateRequest, until_s: float | None, take: Take | None
    ) -> AsyncIterator[Any]:
        with _by(until_s):
            return self._chats.models.generate(request, take and _short(bill, take))

    def _tries(self) -> Iterator[tuple[ModelCard, Trial, bool]]:
        """Yield who is asked next, and whether nobody comes after him."""
        candidates = self._plan.candidates
        for position, card in enumerate(candidates):
            trial = self._chats.cooldowns.begin(card.name)
            if trial is None:
                self._routing.skipped.add(model=card.name, reason="cooling_down")
                continue
            yield card, trial, position == len(candidates) - 1

    @asynccontextmanager
    async def _attempt(self, card: ModelCard, trial: Trial, request: Any) -> AsyncIterator[Bill]:
        request.model = card.name
        said = self._routing.attempts.add(model=card.name, outcome="cancelled")
        start_s = time.monotonic()
        try:
            estimate = self._estimate(card, request)
            async with self._chats.billing.attempt(self._call, card, estimate) as bill:
                try:
                    yield bill
                except PenstockError as error:
                    trial.failed(error)
                    raise
            trial.succeeded()
            said.outcome = "ok"
        except PenstockError as error:  # the model's, or of those who admit it
            said.outcome = error.reason
            raise
        finally:
            trial.abandoned()  # has no effect when one of the others was called
            said.duration_ms = (time.monotonic() - start_s) * 1e3

    def _estimate(self, card: ModelCard, request: Any) -> Estimate:
        """Return the most that an attempt may take; an open end is closed for a caller who has limits."""
        account = self._call.account
        most = self._needs.max_tokens
        if not most:
            room = max(1, card.context_tokens - self._needs.input_tokens) if card.context_tokens else MOST_TOKENS
            most = min(room, MOST_TOKENS)
            if _counts_tokens(account):
                request.sampling.max_tokens = most
        written = most * max(1, request.sampling.n)
        read = self._needs.most_input_tokens or self._needs.input_tokens
        read = min(read, card.context_tokens or read)
        cost_nanos = min(card.price.cost_nanos(read, written), MOST_NANOS)
        return Estimate(read + written, cost_nanos, self._needs.input_tokens)

    def _passed_on(self, choices: Any) -> bool:
        """Say whether a refusal goes to the next model: it is an answer, unless the route says otherwise."""
        filtered = inference.FINISH_REASON_CONTENT_FILTER
        return (
            self._plan.route.fallback_on_refusal
            and bool(choices)
            and all(each.finish_reason == filtered for each in choices)
        )


def _counts_tokens(account: Account) -> bool:
    return any(
        limit is not None
        for subject in account.subjects
        for limit in (
            subject.limits.tokens_per_minute,
            subject.limits.budget_day_nanos,
            subject.limits.budget_month_nanos,
        )
    )


def _within(timeout_s: float | None) -> Any:
    return nullcontext() if timeout_s is None else deadline.within(timeout_s)


def _moment(timeout_s: float | None) -> float | None:
    """Return the moment of the monotonic clock so many seconds from now."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def _by(until_s: float | None) -> Any:
    return nullcontext() if until_s is None else deadline.within(max(0.0, until_s - time.monotonic()))


def _goes_on(error: PenstockError, until_s: float | None) -> bool:
    with _by(until_s):
        return retryable(error)


async def _next(events: Any, until_s: float | None) -> inference.GenerateResponse | None:
    """Return the next event, None at the end; raise TimedOut when it takes too long."""
    if until_s is None:
        return cast("inference.GenerateResponse | None", await anext(events, None))
    try:
        async with asyncio.timeout(until_s - time.monotonic()):
            found: inference.GenerateResponse | None = await anext(events, None)
    except TimeoutError as error:
        raise TimedOut("the model did not begin in time") from error
    return found


def _short(bill: Bill, take: Take) -> Take:
    """Return `take` with the bill kept up to date; where that takes more than counting, the iteration does it."""

    def noted(event: inference.GenerateResponse) -> bool:
        if bill.first_byte_s is None or bill.is_due or not take(event):
            return False
        bill.output_tokens += len(event.deltas)
        return True

    return noted


def _note(bill: Bill, event: inference.GenerateResponse, needs: Needs) -> None:
    """Keep the bill up to date, so that one for an answer that breaks off is right, too."""
    if event.HasField("served"):
        bill.version, bill.digest = event.served.version, event.served.digest
    if event.deltas:
        bill.input_tokens = bill.input_tokens or needs.input_tokens
        bill.output_tokens += len(event.deltas)  # a delta is about a token; the backend's own count replaces it
    if event.HasField("finished"):
        bill.backend_s = event.finished.backend_s
        _note_usage(bill, event.finished.usage)


def _note_whole(bill: Bill, response: inference.CompleteResponse, needs: Needs) -> None:
    bill.version, bill.digest = response.served.version, response.served.digest
    written = sum(len(choice.message.content) for choice in response.choices)
    bill.input_tokens, bill.output_tokens = needs.input_tokens, written // CHARACTERS_PER_TOKEN + 1
    bill.backend_s = response.finished.backend_s
    _note_usage(bill, response.finished.usage)


def _note_usage(bill: Bill, usage: inference.TokenUsage) -> None:
    if usage.reported:
        bill.counted(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)
