"""Calls of a model that are no chat (embeddings, pipelines, tensors) under the same limits and in the same ledger."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from penstock.orchestrator.v1 import answer_pb2 as answers
from servicekit.errors import Forbidden

from gateway.core import accounts
from gateway.core.billing import Bill, Billing
from gateway.core.metering import Estimate
from gateway.core.models import ModelCard, Models, Task
from gateway.core.pricing import MOST_NANOS
from gateway.core.routes import Needs, Router
from gateway.core.targets import PIPELINE_PREFIX, ModelNotFound

BYTES_PER_TOKEN: Final = 4
PIPELINE_TOKENS: Final = 2_048
"""What a question may take of a limit on tokens: the budget of its prompt and a short answer."""


class Runs(Protocol):
    """What admits and accounts for calls of models; each is held open while the model works."""

    def encoder(self, name: str, tokens: int) -> AbstractAsyncContextManager[Bill]:
        """Hold a call of an encoder, or of an alias of one; `bill.card` is who is to be asked."""
        ...

    def pipeline(self, knowledge_base: str, model: str = "") -> AbstractAsyncContextManager[Bill]:
        """Hold a question to a knowledge base, for a model if one was asked for."""
        ...

    def confined(self, knowledge_base: str) -> None:
        """Raise Forbidden when the caller may not have texts encoded: nobody knows where."""
        ...

    def tensor(self, card: ModelCard) -> AbstractAsyncContextManager[Bill]:
        """Hold a run of a model on tensors."""
        ...

    def answered(self, bill: Bill, answer: answers.Answer) -> None:
        """Put what an answer tells of the model behind it on the bill."""
        ...


class MeteredRuns:
    """Runs under limits, each with its row in the ledger."""

    def __init__(self, billing: Billing, router: Router, models: Models) -> None:
        self._billing = billing
        self._router = router
        self._models = models

    @asynccontextmanager
    async def encoder(self, name: str, tokens: int) -> AsyncIterator[Bill]:
        """Hold a call of an encoder of about so many tokens; an empty name is the first encoder of the catalogue."""
        account = accounts.current()
        if not name:
            encoders = [card.name for card in self._router.offered(account) if card.task is Task.EMBED]
            name = min((name for name in encoders if name in self._models.catalogue.cards), default="")
        card = self._router.plan(name, Needs(task=Task.EMBED), account).candidates[0]
        call = self._billing.open("embed", name, account)
        async with self._billing.attempt(call, card, Estimate(tokens, card.price.cost_nanos(tokens, 0))) as bill:
            yield bill

    @asynccontextmanager
    async def pipeline(self, knowledge_base: str, model: str = "") -> AsyncIterator[Bill]:
        """Hold a question; which model answers it, and at what price, is known when it is answered."""
        account, name = accounts.current(), f"{PIPELINE_PREFIX}{knowledge_base}"
        for each in (name, model):
            if each and not account.allows(each):
                raise ModelNotFound(each)
        self.confined(knowledge_base)
        call = self._billing.open("ask", name, account)
        card = ModelCard(name=name, task=Task.GENERATE, provider="penstock")
        async with self._billing.attempt(call, card, Estimate(PIPELINE_TOKENS, self._dearest_nanos())) as bill:
            yield bill

    def confined(self, knowledge_base: str) -> None:
        """Refuse a caller with a region: where the models behind a knowledge base run is known only afterwards."""
        if region := accounts.current().region:
            message = f"it is not known that {PIPELINE_PREFIX}{knowledge_base} stays in {region}"
            raise Forbidden(message, reason="region_not_allowed", field="model")

    def _dearest_nanos(self) -> int:
        """Return the most that an answer of a pipeline costs, whichever model writes it."""
        cards = self._models.catalogue.cards.values() if self._models.known else ()
        prices = [card.price for card in cards if card.task is Task.GENERATE]
        each = [max(price.cost_nanos(PIPELINE_TOKENS, 0), price.cost_nanos(0, PIPELINE_TOKENS)) for price in prices]
        return min(max(each, default=0), MOST_NANOS)

    @asynccontextmanager
    async def tensor(self, card: ModelCard) -> AsyncIterator[Bill]:
        """Hold a run on tensors, which costs no tokens."""
        call = self._billing.open("tensor", card.name, accounts.current())
        async with self._billing.attempt(call, card, Estimate(0, 0)) as bill:
            yield bill

    def answered(self, bill: Bill, answer: answers.Answer) -> None:
        """Take over model, price and tokens of an answer that a model wrote."""
        card = self._models.catalogue.cards.get(answer.served.model)
        if card is not None:
            bill.card = card
        bill.version, bill.digest = answer.served.version, answer.served.digest
        if answer.usage.reported:
            bill.counted(answer.usage.input_tokens, answer.usage.output_tokens)


class FreeRuns:
    """Runs that nobody limits or writes down."""

    @asynccontextmanager
    async def encoder(self, name: str, tokens: int) -> AsyncIterator[Bill]:  # noqa: ARG002
        """Hold nothing."""
        if name and not accounts.current().allows(name):
            raise ModelNotFound(name)
        yield Bill(ModelCard(name=name, task=Task.EMBED))

    @asynccontextmanager
    async def pipeline(self, knowledge_base: str, model: str = "") -> AsyncIterator[Bill]:
        """Hold nothing."""
        yield Bill(ModelCard(name=model or knowledge_base, task=Task.GENERATE))

    def confined(self, knowledge_base: str) -> None:
        """Confine nobody."""

    @asynccontextmanager
    async def tensor(self, card: ModelCard) -> AsyncIterator[Bill]:
        """Hold nothing."""
        yield Bill(card)

    def answered(self, bill: Bill, answer: answers.Answer) -> None:
        """Write nothing down."""


UNMETERED: Final = FreeRuns()
