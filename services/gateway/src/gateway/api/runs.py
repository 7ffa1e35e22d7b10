"""Calls of a model that are no chat (embeddings, questions, tensors, knowledge): same limits, same ledger."""

import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, Literal

from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.orchestrator.v1 import answer_pb2 as answers
from servicekit import deadline
from servicekit.errors import Forbidden, PenstockError, Unavailable

from gateway.core import accounts
from gateway.core.accounts import Account
from gateway.core.billing import Bill, Billing, Call
from gateway.core.metering import Estimate
from gateway.core.models import ModelCard, Models, Task
from gateway.core.pricing import FREE, MOST_NANOS
from gateway.core.routes import Needs, Plan, Router, retryable
from gateway.core.targets import PIPELINE_PREFIX, ModelNotFound

PIPELINE_TOKENS: Final = 2_048
"""What a question may take of a limit on tokens: the budget of its prompt and a short answer."""

ENCODING: Final = Needs(task=Task.EMBED)
NO_TOKENS: Final = Estimate(0, 0)
KNOWLEDGE_BASE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What the orchestrator takes for the name of a knowledge base; anything else gets no further than there."""

Encode = Callable[[str], Awaitable[embedding.EmbedResponse]]
"""Has texts encoded by the model of this name."""


class EncoderChanged(Unavailable):
    """The model that stood in for another one gave vectors that cannot be compared with the other's."""

    default_reason = "encoder_changed"


class MeteredRuns:
    """Runs under limits, each attempt with its row in the ledger."""

    def __init__(self, billing: Billing, router: Router, models: Models) -> None:
        self._billing = billing
        self._router = router
        self._models = models

    async def encode(self, name: str, tokens: int, ask: Encode) -> embedding.EmbedResponse:
        """Return the vectors of the first encoder of a route that gives any; the texts have at most so many tokens.

        An empty name is the first encoder of the catalogue. Raises what the router, the limits and the last encoder do.
        """
        account = accounts.current()
        plan = self._planned(name, account)
        failed: PenstockError | None = None
        with self._billing.open("embed", plan.route.alias, account) as call, _within(plan.route.timeout_s):
            for card in plan.candidates:
                last = card is plan.candidates[-1]
                try:
                    with _within(None if last else plan.route.attempt_timeout_s):
                        response = await self._encoded(call, plan, card, tokens, ask)
                    if response is not None:
                        return response
                except PenstockError as error:
                    if last or not retryable(error):
                        raise
                    failed = error
            raise failed or self._router.resting(plan)

    def _planned(self, name: str, account: Account) -> Plan:
        try:
            return self._router.plan(name or self._first_encoder(account), ENCODING, account)
        except Unavailable as error:
            self._billing.unserved("embed", name, error)
            raise

    async def _encoded(
        self, call: Call, plan: Plan, card: ModelCard, tokens: int, ask: Encode
    ) -> embedding.EmbedResponse | None:
        """Ask one encoder; None when it rests."""
        trial = self._router.begin(card.name)
        if trial is None:
            return None
        try:
            estimate = Estimate(tokens, min(card.price.cost_nanos(tokens, 0), MOST_NANOS))
            async with self._billing.attempt(call, card, estimate) as bill:
                try:
                    response = await ask(card.name)
                except PenstockError as error:
                    trial.failed(error)
                    raise
                trial.succeeded()
                bill.counted(sum(response.token_counts), 0)
                bill.version, bill.digest = response.encoder.version, response.encoder.digest
                if card.name != plan.route.candidates[0] and response.encoder.digest != card.digest:
                    raise EncoderChanged(f"{card.name} is not the encoder that it was", retry_after_s=1)
                return response
        finally:
            trial.abandoned()  # has no effect when one of the others was called

    def _first_encoder(self, account: Account) -> str:
        cards = self._models.catalogue.cards
        offered = [card.name for card in self._router.offered(account) if card.task is Task.EMBED]
        return min((name for name in offered if name in cards), default="")

    def pipeline(self, knowledge_base: str, model: str = "") -> AbstractAsyncContextManager[Bill]:
        """Hold a question; which model answers it, and at what price, is known when it is answered."""
        account, alias = accounts.current(), _alias(knowledge_base)
        for each in (f"{PIPELINE_PREFIX}{knowledge_base}", model):
            if each and not account.allows(each):
                raise ModelNotFound(each)
        self._confined(knowledge_base, account)
        card = ModelCard(name="knowledge:ask", task=Task.GENERATE, provider="penstock")
        estimate = Estimate(PIPELINE_TOKENS, self._dearest_nanos())
        return self._billing.only(self._billing.open("ask", alias, account), card, estimate)

    def knowledge(
        self, kind: Literal["search", "ingest"], knowledge_base: str, tokens: int
    ) -> AbstractAsyncContextManager[Bill]:
        """Hold a search or an ingestion that has at most so many tokens encoded.

        Nobody says which encoder reads them: of several, the price is that of the dearest.
        """
        account = accounts.current()
        self._confined(knowledge_base, account)
        cards = self._models.catalogue.cards.values() if self._models.known else ()
        prices = [card.price for card in cards if card.task is Task.EMBED]
        price = max(prices, key=lambda each: each.input_micros, default=FREE)
        card = ModelCard(name=f"knowledge:{kind}", task=Task.EMBED, provider="penstock", price=price)
        estimate = Estimate(tokens, min(price.cost_nanos(tokens, 0), MOST_NANOS))
        return self._billing.only(self._billing.open(kind, _alias(knowledge_base), account), card, estimate)

    async def renew(self, bill: Bill) -> None:
        """Keep what a long run has reserved; cheap enough for every event of it."""
        await self._billing.renew(bill)

    def tensor(self, card: ModelCard) -> AbstractAsyncContextManager[Bill]:
        """Hold a run on tensors, which costs no tokens."""
        return self._billing.only(self._billing.open("tensor", card.name, accounts.current()), card, NO_TOKENS)

    def answered(self, bill: Bill, answer: answers.Answer) -> None:
        """Take over model, price and tokens of an answer that a model wrote."""
        card = self._models.catalogue.cards.get(answer.served.model)
        if card is not None:
            bill.card = card
        bill.version, bill.digest = answer.served.version, answer.served.digest
        if answer.usage.reported:
            bill.counted(answer.usage.input_tokens, answer.usage.output_tokens)

    def _confined(self, knowledge_base: str, account: Account) -> None:
        """Refuse a caller with a region: where the models behind a knowledge base run is known only afterwards."""
        if account.region:
            message = f"it is not known that {PIPELINE_PREFIX}{knowledge_base} stays in {account.region}"
            raise Forbidden(message, reason="region_not_allowed", field="model")

    def _dearest_nanos(self) -> int:
        """Return the most that an answer of a pipeline costs, whichever model writes it."""
        cards = self._models.catalogue.cards.values() if self._models.known else ()
        prices = [card.price for card in cards if card.task is Task.GENERATE]
        each = [max(price.cost_nanos(PIPELINE_TOKENS, 0), price.cost_nanos(0, PIPELINE_TOKENS)) for price in prices]
        return min(max(each, default=0), MOST_NANOS)


def _alias(knowledge_base: str) -> str:
    """Return what rows call a knowledge base: nothing that a caller makes up goes into the ledger."""
    return f"{PIPELINE_PREFIX}{knowledge_base if KNOWLEDGE_BASE.fullmatch(knowledge_base) else ''}"


def _within(timeout_s: float | None) -> Any:
    return nullcontext() if timeout_s is None else deadline.within(timeout_s)
