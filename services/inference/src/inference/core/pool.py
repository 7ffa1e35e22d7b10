"""The pool: finds the model, waits for its slot, runs the request and keeps the numbers."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Final

from servicekit.errors import InvalidInput, NotFound
from servicekit.telemetry import Kind, Span, genai, span

from inference.core.catalogue import Model, Task
from inference.core.generation import Finished, Order, Piece, Sampling, Turn, check_turns
from inference.core.measures import Measures
from inference.core.ports import TensorRunner
from inference.core.served_model import ServedModel

PROBE_PERIOD_S: Final = 1.0


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

    async def generate(self, name: str, turns: Sequence[Turn], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Write an answer; closing the generator stops the backend.

        Raises NotFound, InvalidInput, Unavailable (queue_full, queue_timeout, not_loaded, draining, backend_failed)
        or TimedOut.
        """
        served = self.find(name)
        if served.generator is None:
            raise InvalidInput(f"{name} does not write text", reason="wrong_task", field="model")
        check_turns(turns)
        sampling.check()
        order = Order(turns, sampling.over(served.model.sampling, served.model.context_tokens))
        start = time.monotonic()
        async with served.admitted() as left_s:
            with span(f"chat {name}", Kind.CLIENT, _chat_attributes(served.model, order.sampling)) as opened:
                async with aclosing(served.generator.generate(order, left_s)) as pieces:
                    recorder = _Recorder(served.measures, opened, start)
                    async for piece in pieces:
                        recorder.record(piece)
                        yield piece

    async def infer(self, name: str, request: bytes) -> bytes:
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
        while True:
            async with asyncio.TaskGroup() as probes:
                for served in self._models.values():
                    probes.create_task(served.probe())
            await asyncio.sleep(PROBE_PERIOD_S)

    def drain(self) -> None:
        """Refuse what waits and what comes; what runs is left to end."""
        for served in self._models.values():
            served.queue.drain()

    def _runner(self, name: str) -> tuple[ServedModel, TensorRunner]:
        served = self.find(name)
        if served.tensors is None:
            raise InvalidInput(f"{name} takes no tensors", reason="wrong_task", field="model")
        return served, served.tensors


class _Recorder:
    """Puts what an answer's pieces tell on its span and into the metrics."""

    def __init__(self, measures: Measures, opened: Span, start: float) -> None:
        self._measures = measures
        self._span = opened
        self._start = start
        self._waits_for_text = True

    def record(self, piece: Piece) -> None:
        self._span.set(genai.RESPONSE_MODEL, piece.version)
        if piece.text and self._waits_for_text:
            self._waits_for_text = False
            first_s = time.monotonic() - self._start
            self._measures.first_token_s.observe(first_s)
            self._span.set(genai.RESPONSE_TIME_TO_FIRST_CHUNK, first_s)
        if piece.finished is not None:
            self._finish(piece.finished)

    def _finish(self, finished: Finished) -> None:
        self._span.set(genai.RESPONSE_FINISH_REASONS, (finished.reason.value,))
        if finished.usage.reported:
            self._span.set(genai.USAGE_INPUT_TOKENS, finished.usage.input_tokens)
            self._span.set(genai.USAGE_OUTPUT_TOKENS, finished.usage.output_tokens)
            self._measures.input_tokens.inc(finished.usage.input_tokens)
            self._measures.output_tokens.inc(finished.usage.output_tokens)


def _chat_attributes(model: Model, sampling: Sampling) -> dict[str, str | int | float | bool]:
    attributes: dict[str, str | int | float | bool] = {
        genai.OPERATION_NAME: genai.CHAT,
        genai.PROVIDER_NAME: model.provider.value,
        genai.REQUEST_MODEL: model.name,
        genai.REQUEST_STREAM: True,
    }
    choices = {
        genai.REQUEST_MAX_TOKENS: sampling.max_tokens,
        genai.REQUEST_TEMPERATURE: sampling.temperature,
        genai.REQUEST_TOP_P: sampling.top_p,
        genai.REQUEST_SEED: sampling.seed,
    }
    return attributes | {name: value for name, value in choices.items() if value is not None}


def _tensor_attributes(model: Model) -> dict[str, str | int | float | bool]:
    attributes: dict[str, str | int | float | bool] = {
        genai.PROVIDER_NAME: model.provider.value,
        genai.REQUEST_MODEL: model.name,
    }
    if model.task is Task.EMBED:
        attributes[genai.OPERATION_NAME] = genai.EMBEDDINGS
    return attributes
