"""The models that can be asked, as inference last told, and how old that news is."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from servicekit.errors import PenstockError, Unavailable
from servicekit.telemetry.metrics import gauge

from gateway.core.pricing import FREE, Price

REFRESH_S: Final = 2.0

_age_s = gauge("penstock_gateway_catalogue_age_seconds", "Age of the list of models that requests are routed by")
_known = gauge("penstock_gateway_catalogue_models", "Models in the list that requests are routed by")

log = logging.getLogger(__name__)


class Task(StrEnum):
    """What a model does: messages to text, token ids to vectors, tensors to tensors."""

    GENERATE = "generate"
    EMBED = "embed"
    TENSOR = "tensor"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model of the catalogue.

    `capabilities` are the words of penstock.inference.v1.Model, `context_tokens` is 0 when unknown, the empty `region`
    is not known either. `reason` says why it is not ready; `created_at` is in seconds since 1970.
    """

    name: str
    task: Task
    provider: str = ""
    region: str = ""
    capabilities: frozenset[str] = frozenset()
    context_tokens: int = 0
    price: Price = FREE
    ready: bool = True
    version: str = ""
    digest: str = ""
    reason: str = ""
    description: str = ""
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One list of models by name; another list is another object, so what is derived from it can be kept beside it."""

    cards: Mapping[str, ModelCard] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, cards: Iterable[ModelCard]) -> "Catalogue":
        """Return the catalogue of these models."""
        return cls(MappingProxyType({card.name: card for card in cards}))


class Models:
    """The latest list of models. While inference is away the last one holds: its calls fail by themselves."""

    def __init__(
        self, fetch: Callable[[], Awaitable[Sequence[ModelCard]]], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Take what asks inference for the list, raising one of servicekit's errors when it cannot."""
        self._fetch = fetch
        self._clock_s = clock_s
        self._catalogue: Catalogue | None = None
        self._fetched_s = float("-inf")
        self._away = False
        _age_s.set_function(self.age_s)

    @property
    def known(self) -> bool:
        """Whether there is a list at all."""
        return self._catalogue is not None

    @property
    def catalogue(self) -> Catalogue:
        """The latest list; raise Unavailable before there was any."""
        if self._catalogue is None:
            raise Unavailable("the models are not known yet", reason="catalogue_unknown", retry_after_s=REFRESH_S)
        return self._catalogue

    def age_s(self) -> float:
        """Return the seconds since the list was fetched; infinity when it never was."""
        return self._clock_s() - self._fetched_s

    async def refresh(self) -> bool:
        """Fetch the list; return whether that went well. A list that says the same is not replaced."""
        try:
            latest = Catalogue.of(await self._fetch())
        except PenstockError as error:
            self._note(away=True, why=error.message)
            return False
        self._note(away=False, why="")
        self._fetched_s = self._clock_s()
        if self._catalogue is None or latest.cards != self._catalogue.cards:
            self._catalogue = latest
            _known.set(len(latest.cards))
        return True

    async def watch(self) -> None:
        """Keep the list up to date, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_S)

    async def check(self) -> str | None:
        """Say why nothing can be routed, or None when it can."""
        return None if self.known else "the models are not known yet"

    def _note(self, *, away: bool, why: str) -> None:
        if away and not self._away:
            log.warning("inference does not tell its models, the last list holds: %s", why)
        elif self._away and not away:
            log.info("inference tells its models again")
        self._away = away
