"""Real books over fakes of what is outside, models that do as a script says, and accounts of one subject."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from gateway.adapters.journal import FileJournal
from gateway.api.backends import Take
from gateway.api.routed_chats import RoutedChats
from gateway.api.runs import MeteredRuns
from gateway.core.accounts import UNLIMITED, Account, Limits, Priority, Subject
from gateway.core.attempts import Settled
from gateway.core.billing import Billing, Books
from gateway.core.configuration import AdmissionPolicy
from gateway.core.cooldowns import CooldownPolicy, Cooldowns
from gateway.core.ledger import Ledger
from gateway.core.limit_ports import LimitStore
from gateway.core.load import Gate
from gateway.core.local_limits import LocalLimits
from gateway.core.metering import Estimate, Meter, RateLimited, Reservation
from gateway.core.models import Catalogue, ModelCard, Models, Task
from gateway.core.pricing import Price
from gateway.core.retries import RetryLinks
from gateway.core.routes import Route, Router
from gateway.core.slo import SloTracker
from gateway_ledger_fakes import FakeLedgerStore
from penstock.inference.v1 import inference_pb2 as inference
from servicekit import deadline
from servicekit.errors import TimedOut

PRICE = Price(1_000_000, 2_000_000)
"""A thousand nano-dollars per token that is read, two thousand per token that is written."""

CARDS = (
    ModelCard("first", Task.GENERATE, "openai", "eu", price=PRICE, context_tokens=8_000),
    ModelCard("second", Task.GENERATE, "triton", "eu", price=PRICE, context_tokens=8_000),
    ModelCard("third", Task.GENERATE, "triton", "us"),
    ModelCard("aardvark", Task.EMBED, "triton", "us", price=PRICE),
    ModelCard("encoder", Task.EMBED, "triton", "eu", price=PRICE, digest="sha256:1"),
    ModelCard("twin", Task.EMBED, "triton", "us", digest="sha256:1"),
    ModelCard("matrix", Task.TENSOR, "triton", "eu"),
)
OPEN = AdmissionPolicy(256, 512, 256, dict.fromkeys(Priority, 256))
FULL = AdmissionPolicy(1, 1, 1, dict.fromkeys(Priority, 0))
"""One call of a model at once, and nobody may wait."""


def account(limits: Limits = UNLIMITED, **changes: Any) -> Account:
    """Return the account of a tenant with these limits."""
    values: dict[str, Any] = {"scopes": frozenset(), "subjects": (Subject("tenant", "acme", limits),)}
    return Account("acme", "default", "key-1", "tester", **values | changes)


class Desk:
    """The office: books that are real, over a journal in a folder and a store in memory."""

    def __init__(
        self,
        folder: Path,
        policy: AdmissionPolicy = OPEN,
        limits: LimitStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = FakeLedgerStore()
        self.journal = FileJournal(folder)
        self.ledger = Ledger(self.journal, self.store)
        self.gate = Gate(policy)
        self.meter = Meter(LocalLimits() if limits is None else limits, self.ledger, clock)
        self.slo = SloTracker({})
        self.billing = Billing(Books(self.gate, self.meter, self.ledger, self.slo, RetryLinks(), clock))

    def __enter__(self) -> Self:
        """Return the office."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the journal, and see that everything that was begun has ended."""
        self.journal.__exit__()
        if kind is None:
            self.idle()

    async def rows(self) -> list[Settled]:
        """Return every row so far, in order of begin and number."""
        await self.ledger.flush()
        return sorted(self.store.rows_by_id.values(), key=lambda row: (row.attempt.started_at, row.attempt.number))

    async def row(self) -> Settled:
        """Return the only row; see that there is one, and nothing is open."""
        (row,) = await self.rows()
        self.idle()
        return row

    def idle(self) -> None:
        """See that nothing runs and nothing waits."""
        assert self.gate.counts.running == [0, 0, 0]
        assert self.gate.counts.waiting == [0, 0, 0]
        assert not self.ledger._open

    async def free(self, who: Account) -> int:
        """Return how many of the account's concurrent requests are free; take none."""
        held: list[Reservation] = []
        with pytest.raises(RateLimited, match="concurrent requests"):
            while len(held) < 100:
                held += [await self.meter.reserve(who, f"probe-{len(held)}", Estimate(0, 0))]
        for each in held:
            await self.meter.release(each)
        return len(held)


class ScriptedModels:
    """A model pool: what each model does is a list of steps, an exception or an awaitable's maker among them."""

    def __init__(self, **scripts: Sequence[Any]) -> None:
        self.scripts: Mapping[str, Sequence[Any]] = scripts
        self.asked: list[str] = []
        self.max_tokens: list[int] = []
        self.left_s: list[float | None] = []
        self.closed: list[str] = []
        self.hanging = asyncio.Event()

    async def complete(self, request: inference.CompleteRequest) -> inference.CompleteResponse:
        """Return the first message of the script."""
        self._note(request)
        return next(iter([await self._do(step) for step in self.scripts[request.model]]))

    async def generate(
        self, request: inference.GenerateRequest, take: Take | None = None
    ) -> AsyncIterator[inference.GenerateResponse]:
        """Yield the messages of the script that `take` does not take."""
        self._note(request)
        name = request.model
        try:
            for step in self.scripts[name]:
                event = await self._do(step)
                if take is None or not take(event):
                    yield event
        finally:
            self.closed.append(name)

    async def list(self) -> Any:
        """Is not asked."""
        raise AssertionError

    async def get(self, request: Any) -> Any:
        """Is not asked."""
        raise AssertionError

    def _note(self, request: Any) -> None:
        self.asked.append(request.model)
        self.max_tokens.append(request.sampling.max_tokens)
        self.left_s.append(deadline.remaining_s())

    async def _do(self, step: Any) -> Any:
        if isinstance(step, Exception):
            raise step
        if step != "hang":
            return step
        self.hanging.set()
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await asyncio.Event().wait()
        except TimeoutError as error:
            raise TimedOut("too slow") from error


class Office(Desk):
    """The books with models behind them: chats and runs as the doors have them."""

    def __init__(
        self, folder: Path, models: ScriptedModels, route: Route | None = None, *, cooling: int = 5, **how: Any
    ) -> None:
        super().__init__(folder, **how)
        self.pool = models
        self.routes = {route.alias: route} if route else {}
        self.catalogue = Models(self._cards)
        self.cooldowns = Cooldowns(CooldownPolicy(failures=cooling, patience_s=0))
        self.router = Router(self.catalogue, lambda: self.routes, self.cooldowns)
        self.chats = RoutedChats(models, self.router, self.cooldowns, self.billing)
        self.runs = MeteredRuns(self.billing, self.router, self.catalogue)

    async def _cards(self) -> Sequence[ModelCard]:
        return list(Catalogue.of(CARDS).cards.values())


def whole(text: str = "Hello", finish: int = inference.FINISH_REASON_STOP, **usage: Any) -> inference.CompleteResponse:
    """Return a whole answer; tokens are reported when any are given."""
    response = inference.CompleteResponse(
        served=inference.ServedModel(version="7", digest="sha256:11"),
        finished=inference.GenerationFinished(usage=inference.TokenUsage(reported=bool(usage), **usage)),
    )
    response.choices.add(message=inference.Message(role="assistant", content=text), finish_reason=finish)
    return response


SERVED = inference.GenerateResponse(served=inference.ServedModel(version="7", digest="sha256:11"))


def piece(text: str) -> inference.GenerateResponse:
    """Return a piece of a stream."""
    return inference.GenerateResponse(deltas=[inference.Delta(text=text)])


def end(finish: int = inference.FINISH_REASON_STOP) -> inference.GenerateResponse:
    """Return how a choice ends."""
    return inference.GenerateResponse(deltas=[inference.Delta(finish_reason=finish)])


def finished(**usage: Any) -> inference.GenerateResponse:
    """Return the end of a stream; tokens are reported when any are given."""
    tokens = inference.TokenUsage(reported=bool(usage), **usage)
    return inference.GenerateResponse(finished=inference.GenerationFinished(usage=tokens))


def answer(*texts: str) -> list[inference.GenerateResponse]:
    """Return a whole stream of these pieces; 5 tokens are read, 3 written."""
    return [SERVED, *map(piece, texts), end(), finished(input_tokens=5, output_tokens=3)]
