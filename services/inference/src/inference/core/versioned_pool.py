"""The pool under the names callers use: picks the version that answers, and lets the pool run it."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from random import random as uniform
from typing import Final, Protocol

from servicekit.errors import Unavailable
from servicekit.landed import Message, MessageT
from servicekit.telemetry.metrics import counter

from inference.core.answer import Answer, Piece, Served, TakeText
from inference.core.generation import Order
from inference.core.pool import Pool
from inference.core.ports import NOT_LOADED, ModelState
from inference.core.registry import first_servable, servable
from inference.core.shadow import Mirror, Mirrored, texts_of
from inference.core.traffic import Caller, Candidate, Route, Traffic

RETRY_AFTER_S: Final = 1.0
ROUTED = counter(
    "penstock_inference_routed_requests",
    "Requests of models whose roles are declared, by who was chosen",
    ("model", "version", "role"),
)


class TensorLabels(Protocol):
    """Changes what an OIP message says of its model, and nothing else of it."""

    def asked(self, request: MessageT, model: str) -> MessageT:
        """Return a request of a model (inference, metadata, configuration) that names `model` instead."""
        ...

    def answered(self, response: bytes, model: str, version: str) -> bytes:
        """Return a ModelInferResponse that is from `model` in `version`."""
        ...

    def streamed(self, response: bytes, model: str, version: str) -> bytes:
        """Return a ModelStreamInferResponse that is from `model` in `version`."""
        ...

    def described(self, response: bytes, model: str) -> bytes:
        """Return a ModelMetadataResponse of `model`."""
        ...

    def configured(self, response: bytes, model: str) -> bytes:
        """Return a ModelConfigResponse of `model`."""
        ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """Who answers one request: the catalogue's entry, and the version it stands for (none: it is the entry itself)."""

    entry: str
    candidate: Candidate | None = None
    canary: bool = False

    @property
    def version(self) -> str:
        """The version's name, empty for the entry itself."""
        return "" if self.candidate is None else self.candidate.version

    def label(self, served: Served) -> Served:
        """Return what a backend says of itself with what is known better here."""
        if self.candidate is None:
            return served
        return replace(served, version=self.candidate.version, digest=self.candidate.digest)


class VersionedPool:
    """All models of the catalogue with their versions; errors are the pool's, and `not_loaded` for a wrong digest."""

    def __init__(
        self,
        pool: Pool,
        traffic: Traffic,
        mirror: Mirror,
        labels: TensorLabels,
        caller: Callable[[], Caller],
        random: Callable[[], float] = uniform,
    ) -> None:
        """Take the pool, the routes in force, who asks shadows, who labels tensors, who calls, and chance below 1."""
        self._pool = pool
        self._traffic = traffic
        self._mirror = mirror
        self._labels = labels
        self._caller = caller
        self._random = random
        self._entries = {each.model.name: each for each in pool.models()}
        self.models = pool.models
        self.find = pool.find
        self.readiness = pool.readiness

    def state(self, name: str) -> ModelState:
        """Return the state of what answers for a model now, canaries aside; raise NotFound."""
        served = self._pool.find(name)
        route = self._traffic.routes.get(name)
        if route is None or route.champion is None:
            return served.state
        candidate = first_servable(route.champion, self._entries)
        if candidate is None:
            return ModelState(ready=False, reason=NOT_LOADED)
        return replace(self._entries[candidate.served_by].state, version=candidate.version)

    def generate(self, name: str, order: Order, take: TakeText | None = None) -> AsyncGenerator[Piece, None]:
        """Write an answer; closing the generator stops the backend. Where roles are declared `take` is not offered."""
        route = self._traffic.routes.get(name)
        if route is None:
            return self._pool.generate(name, order, take)
        return self._generate(route, self._choose(route), order)

    def complete(self, name: str, order: Order) -> Awaitable[Answer]:
        """Write an answer and return the whole of it."""
        route = self._traffic.routes.get(name)
        if route is None:
            return self._pool.complete(name, order)
        return self._complete(route, self._choose(route), order)

    def infer(self, name: str, request: Message) -> Awaitable[bytes]:
        """Run a ModelInferRequest and return the ModelInferResponse."""
        route = self._traffic.routes.get(name)
        if route is None:
            return self._pool.infer(name, request)
        return self._infer(route, self._choose(route), request)

    def stream(self, name: str, request: bytes) -> AsyncGenerator[bytes, None]:
        """Run a ModelInferRequest that may have many responses, and yield each; no shadow is asked."""
        route = self._traffic.routes.get(name)
        if route is None:
            return self._pool.stream(name, request)
        return self._stream(route, self._choose(route), request)

    async def metadata(self, name: str, request: bytes) -> bytes:
        """Return the ModelMetadataResponse of the champion."""
        entry = self._described(name)
        if entry == name:
            return await self._pool.metadata(name, request)
        return self._labels.described(await self._pool.metadata(entry, self._labels.asked(request, entry)), name)

    async def config(self, name: str, request: bytes) -> bytes:
        """Return the ModelConfigResponse of the champion."""
        entry = self._described(name)
        if entry == name:
            return await self._pool.config(name, request)
        return self._labels.configured(await self._pool.config(entry, self._labels.asked(request, entry)), name)

    def _described(self, name: str) -> str:
        route = self._traffic.routes.get(name)
        return name if route is None else self._champion(route).entry

    def _choose(self, route: Route) -> Chosen:
        canary = route.canary(self._caller(), self._servable, self._random)
        chosen = self._champion(route) if canary is None else Chosen(canary.served_by, canary, canary=True)
        ROUTED.labels(route.model, chosen.version, "canary" if chosen.canary else "champion").inc()
        return chosen

    def _champion(self, route: Route) -> Chosen:
        if route.champion is None:
            return Chosen(route.model)
        candidate = first_servable(route.champion, self._entries)
        if candidate is None:
            candidate = next(filter(self._right, route.champion), None)  # its entry says best why it cannot serve
        if candidate is None:
            raise Unavailable(
                f"nothing runs {route.model} as it was registered", reason=NOT_LOADED, retry_after_s=RETRY_AFTER_S
            )
        return Chosen(candidate.served_by, candidate)

    def _servable(self, candidate: Candidate) -> bool:
        return servable(candidate, self._entries)

    def _right(self, candidate: Candidate) -> bool:
        """Tell whether an entry, ready or not, is what was registered as far as is known."""
        served = self._entries.get(candidate.served_by)
        return served is not None and served.state.digest == candidate.digest

    def _asked(self, name: str, chosen: Chosen, request: MessageT) -> MessageT:
        return request if chosen.entry == name else self._labels.asked(request, chosen.entry)

    async def _infer(self, route: Route, chosen: Chosen, request: Message) -> bytes:
        start = time.monotonic()
        response = await self._pool.infer(chosen.entry, self._asked(route.model, chosen, request))
        self._mirror_of(route, chosen, request, response, start)
        if chosen.candidate is None:
            return response
        return self._labels.answered(response, route.model, chosen.version)

    async def _stream(self, route: Route, chosen: Chosen, request: bytes) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._pool.stream(chosen.entry, self._asked(route.model, chosen, request))) as responses:
            async for response in responses:
                if chosen.candidate is None:
                    yield response
                else:
                    yield self._labels.streamed(response, route.model, chosen.version)

    async def _complete(self, route: Route, chosen: Chosen, order: Order) -> Answer:
        start = time.monotonic()
        answer = await self._pool.complete(chosen.entry, order)
        if route.shadow:
            self._mirror_of(route, chosen, order, texts_of(answer), start)
        return replace(answer, served=chosen.label(answer.served))

    async def _generate(self, route: Route, chosen: Chosen, order: Order) -> AsyncGenerator[Piece, None]:
        start = time.monotonic()
        texts: dict[int, list[str]] = {}
        async with aclosing(self._pool.generate(chosen.entry, order)) as pieces:
            async for piece in pieces:
                if route.shadow:
                    _collect(texts, piece)
                yield piece if piece.served is None else replace(piece, served=chosen.label(piece.served))
        self._mirror_of(route, chosen, order, tuple("".join(texts[index]) for index in sorted(texts)), start)

    def _mirror_of(
        self, route: Route, chosen: Chosen, request: Message | Order, answer: bytes | tuple[str, ...], start: float
    ) -> None:
        """Offer a request to the shadow, if there is one and it was the champion that answered."""
        if route.shadow and not chosen.canary:
            seconds = time.monotonic() - start
            self._mirror.offer(Mirrored(route, chosen.version, chosen.entry, request, answer, seconds))


def _collect(texts: dict[int, list[str]], piece: Piece) -> None:
    """Put the pieces of a stream together as `texts_of` shows a whole answer."""
    for delta in piece.deltas:
        said = texts.setdefault(delta.choice, [])
        said.append(delta.text)
        said += (f"{call.name}({call.arguments}" if call.name else call.arguments for call in delta.tool_calls)
