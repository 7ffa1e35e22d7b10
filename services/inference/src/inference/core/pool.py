"""The pool: finds the model, waits for its slot, runs the request and keeps the numbers."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace

from servicekit.errors import InvalidInput, NotFound
from servicekit.landed import Message
from servicekit.telemetry import Kind, Span, genai, span

from inference.core.answer import Answer, Piece, Served, TakeText, Usage
from inference.core.capabilities import refuse_beyond
from inference.core.catalogue import Model, Provider, Task
from inference.core.generation import Order, Sampling
from inference.core.measures import Measures
from inference.core.ports import Generator, ModelState, TensorRunner
from inference.core.served_model import ServedModel


class Pool:
    """All models of the catalogue, by name."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {served.model.name: served for served in sorted(models, key=lambda each: each.model.name)}

    def models(self) -> list[ServedModel]:
        """Return every model, ordered by name."""
        return list(self._models.values())

    def find(self, name: str) -> ServedModel:
        """Return a model; raise NotFound when the catalogue does not have it."""
        served = self._models.get(name)
        if served is None:
            raise NotFound(f"there is no model {name[:200]!r}", reason="model_not_found", field="model")
        return served

    def state(self, name: str) -> ModelState:
        """Return whether a model would serve now; raise NotFound."""
        return self.find(name).state

    async def generate(self, name: str, order: Order, take: TakeText | None = None) -> AsyncGenerator[Piece, None]:
        """Write an answer; closing the generator stops the backend. `take` may be offered what follows the first text.

        Raises NotFound, InvalidInput (a model that cannot do what is asked: reason unsupported_parameter), Unavailable
        (queue_full, queue_timeout, not_loaded, loading, draining, rate_limited, backend_failed) or TimedOut.
        """
        served, writer, checked = self._writer(name, order)
        start = time.monotonic()
        admitted = served.admitted()
        async with admitted as left_s:
            attributes = _chat_attributes(served.model, checked.sampling, streaming=True)
            with span(f"chat {name}", Kind.CLIENT, attributes) as opened:
                recorder = _Recorder(served.measures, opened, start, admitted.first_text)
                taking = take and recorder.following(take)
                async with aclosing(writer.generate(checked, left_s, taking)) as pieces:
                    async for piece in pieces:
                        recorder.record(piece)
                        yield piece

    async def complete(self, name: str, order: Order) -> Answer:
        """Write an answer and return the whole of it; errors are those of `generate`."""
        served, writer, checked = self._writer(name, order)
        start = time.monotonic()
        async with served.admitted() as left_s:
            attributes = _chat_attributes(served.model, checked.sampling, streaming=False)
            with span(f"chat {name}", Kind.CLIENT, attributes) as opened:
                answer = await writer.complete(checked, left_s)
                _Recorder(served.measures, opened, start).record_answer(answer)
                return answer

    async def infer(self, name: str, request: Message) -> bytes:
        """Run a ModelInferRequest and return the ModelInferResponse; the errors are those of `generate`."""
        served, tensors = self._runner(name)
        async with served.admitted() as left_s:
            with span(f"infer {name}", Kind.CLIENT, _tensor_attributes(served.model)):
                return await tensors.infer(request, left_s)

    async def stream(self, name: str, request: bytes) -> AsyncGenerator[bytes, None]:
        """Run a ModelInferRequest that may have many responses, and yield each; the errors are those of `generate`."""
        served, tensors = self._runner(name)
        async with served.admitted() as left_s:
            with span(f"infer {name}", Kind.CLIENT, _tensor_attributes(served.model)):
                async with aclosing(tensors.stream(request, left_s)) as responses:
                    async for response in responses:
                        yield response

    async def metadata(self, name: str, request: bytes) -> bytes:
        """Return the ModelMetadataResponse of a model."""
        served, tensors = self._runner(name)
        return await tensors.metadata(request, served.allowed_s())

    async def config(self, name: str, request: bytes) -> bytes:
        """Return the ModelConfigResponse of a model."""
        served, tensors = self._runner(name)
        return await tensors.config(request, served.allowed_s())

    async def readiness(self) -> str | None:
        """Return None when at least one model would serve a request now, else why not."""
        if any(served.state.ready for served in self._models.values()):
            return None
        return "no model is ready"

    async def watch(self) -> None:
        """Keep the models' states up to date, until cancelled."""
        async with asyncio.TaskGroup() as watchers:
            for served in self._models.values():
                watchers.create_task(served.watch())

    def drain(self) -> None:
        """Refuse what waits and what comes; what runs is left to end."""
        for served in self._models.values():
            served.queue.drain()

    def _writer(self, name: str, order: Order) -> tuple[ServedModel, Generator, Order]:
        """Return the model and the order as it goes to the backend; raise what is wrong with either."""
        served = self.find(name)
        if served.generator is None:
            raise InvalidInput(f"{name} does not write text", reason="wrong_task", field="model")
        order.check()
        model = served.model
        refuse_beyond(order, model.capabilities, name)
        fill = model.provider is Provider.TRITON
        sampling = order.sampling.over(model.sampling, model.context_tokens, fill=fill)
        return served, served.generator, replace(order, sampling=sampling)

    def _runner(self, name: str) -> tuple[ServedModel, TensorRunner]:
        served = self.find(name)
        if served.tensors is None:
            raise InvalidInput(f"{name} takes no tensors", reason="wrong_task", field="model")
        return served, served.tensors


class _Recorder:
    """Puts what an answer tells on its span and into the metrics."""

    def __init__(
        self, measures: Measures, opened: Span, start: float, on_first_text: Callable[[], None] | None = None
    ) -> None:
        self._measures = measures
        self._span = opened
        self._start = start
        self._on_first_text = on_first_text
        self._waits_for_text = True
        self._first_s = 0.0
        self._reasons: list[str] = []

    def record(self, piece: Piece) -> None:
        """Take in the next piece of a stream."""
        if piece.served is not None:
            self._begin(piece.served)
        if self._waits_for_text and any(each.text or each.tool_calls or each.refusal for each in piece.deltas):
            self._waits_for_text = False
            first_s = time.monotonic() - self._start
            self._measures.first_text(first_s)
            self._first_s = first_s
            if self._on_first_text is not None:
                self._on_first_text()
            self._span.set(genai.RESPONSE_TIME_TO_FIRST_CHUNK, first_s)
        for delta in piece.deltas:
            if delta.finish_reason is not None:
                self._reasons.append(delta.finish_reason.value)
        if piece.usage is not None:
            self._finish(self._reasons, piece.usage)

    def following(self, take: TakeText) -> TakeText:
        """Return `take` for text after the first, of which there is nothing to record."""

        def follow(choice: int, text: str) -> bool:
            return not self._waits_for_text and take(choice, text)

        return follow

    def record_answer(self, answer: Answer) -> None:
        """Take in a whole answer."""
        self._begin(answer.served)
        self._finish([choice.finish_reason.value for choice in answer.choices], answer.usage)

    def _begin(self, served: Served) -> None:
        self._span.set(genai.RESPONSE_MODEL, served.version)
        self._span.set(genai.RESPONSE_ID, served.response_id or None)

    def _finish(self, reasons: list[str], usage: Usage) -> None:
        self._span.set(genai.RESPONSE_FINISH_REASONS, tuple(reasons))
        if usage.reported:
            self._span.set(genai.USAGE_INPUT_TOKENS, usage.input_tokens)
            self._span.set(genai.USAGE_OUTPUT_TOKENS, usage.output_tokens)
            self._measures.input_tokens.inc(usage.input_tokens)
            self._measures.output_tokens.inc(usage.output_tokens)
            if not self._waits_for_text and usage.output_tokens > 1:
                since_s = time.monotonic() - self._start - self._first_s
                self._measures.token_every(since_s / (usage.output_tokens - 1))


def _chat_attributes(model: Model, sampling: Sampling, *, streaming: bool) -> dict[str, str | int | float | bool]:
    attributes: dict[str, str | int | float | bool] = {
        genai.OPERATION_NAME: genai.CHAT,
        genai.PROVIDER_NAME: model.provider.value,
        genai.REQUEST_MODEL: model.name,
    }
    if streaming:
        attributes[genai.REQUEST_STREAM] = True
    choices = (
        (genai.REQUEST_MAX_TOKENS, sampling.max_tokens),
        (genai.REQUEST_TEMPERATURE, sampling.temperature),
        (genai.REQUEST_TOP_P, sampling.top_p),
        (genai.REQUEST_SEED, sampling.seed),
    )
    return attributes | {name: value for name, value in choices if value is not None}


def _tensor_attributes(model: Model) -> dict[str, str | int | float | bool]:
    attributes: dict[str, str | int | float | bool] = {
        genai.PROVIDER_NAME: model.provider.value,
        genai.REQUEST_MODEL: model.name,
    }
    if model.task is Task.EMBED:
        attributes[genai.OPERATION_NAME] = genai.EMBEDDINGS
    return attributes
