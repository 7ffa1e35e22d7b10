"""Writes the answer: generates and grounds down the ladder until a rung gives one."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from servicekit.errors import InvalidInput, NotFound, TimedOut, Unavailable
from servicekit.telemetry import span

from orchestrator.core.answer import Degradation, FinishReason, Rung, ServedModel, TokenUsage, Written
from orchestrator.core.grounding import Grounding
from orchestrator.core.passages_only import passages_only
from orchestrator.core.pipeline import Pipeline, RungSpec, StepName, TimeLeft
from orchestrator.core.ports import Finished, Generator
from orchestrator.core.question import Sampling
from orchestrator.core.steps import State, degradation

PASSES_ON: Final = (Unavailable, TimedOut)
NOT_FINISHED: Final = Finished(FinishReason.UNSPECIFIED, TokenUsage(0, 0, reported=False))


class EmptyAnswer(Unavailable):
    """The model wrote nothing."""

    default_reason = "empty_answer"


@dataclass(slots=True)
class Draft:
    """One rung's answer in the making, and the seconds spent on verifying it."""

    grounding: Grounding
    served: ServedModel | None = None
    finished: Finished = NOT_FINISHED
    ground_s: float = 0.0

    def add(self, piece: str) -> str:
        """Verify the next piece; return what may go out."""
        if not piece:
            return ""
        start = time.perf_counter()
        text = self.grounding.add(piece)
        self.ground_s += time.perf_counter() - start
        return text

    def end(self) -> str:
        """Return the rest, verified; raise EmptyAnswer when there is no text at all."""
        start = time.perf_counter()
        text = self.grounding.end()
        self.ground_s += time.perf_counter() - start
        if not self.grounding.result().text:
            raise EmptyAnswer("the model wrote nothing")
        return text


@dataclass(slots=True)
class Outcome:
    """What writing came to: filled in while the text is yielded."""

    written: Written | None = None
    degradations: list[Degradation] = field(default_factory=list)
    ground_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Writer:
    """Takes the ladder of a pipeline."""

    pipeline: Pipeline
    generator: Generator

    async def write(
        self, state: State, left: TimeLeft, outcome: Outcome, *, streaming: bool
    ) -> AsyncGenerator[str, None]:
        """Yield verified sentences as they come when `streaming`, and fill in `outcome`.

        Raises NotFound and InvalidInput of the chosen model, and the failure of a model whose text has gone out.
        """
        rungs = list(self._rungs(state))
        for spec in rungs:
            left.share(1.0)
            gone_out = False
            try:
                async with aclosing(self._take(spec, state, left, outcome, streaming=streaming)) as texts:
                    async for text in texts:
                        gone_out = streaming
                        if streaming:
                            yield text
            except PASSES_ON as error:
                if gone_out or spec is rungs[-1]:
                    raise
                outcome.degradations.append(degradation(StepName.GENERATE.value, error))
            else:
                return

    def _rungs(self, state: State) -> Iterator[RungSpec]:
        if not state.prompt.passages:  # there is nothing that a model could answer from
            yield RungSpec(Rung.PASSAGES_ONLY)
            return
        chosen = state.question.model or self.pipeline.model
        for spec in self.pipeline.ladder:
            if spec.rung is Rung.CHOSEN_MODEL:
                yield RungSpec(spec.rung, chosen)
            elif spec.model != chosen:
                yield spec

    async def _take(
        self, spec: RungSpec, state: State, left: TimeLeft, outcome: Outcome, *, streaming: bool
    ) -> AsyncGenerator[str, None]:
        if spec.rung is Rung.PASSAGES_ONLY:
            outcome.written = Written(passages_only(state), spec.rung)
            yield outcome.written.grounded.text
            return
        draft = Draft(Grounding(state.prompt.passages))
        try:
            async with aclosing(self._generate(spec, state, left, draft, streaming=streaming)) as texts:
                async for text in texts:
                    yield text
        except (NotFound, InvalidInput) as error:
            if spec.rung is Rung.CHOSEN_MODEL:
                raise
            raise Unavailable(error.message, reason=error.reason) from error
        outcome.ground_s += draft.ground_s
        outcome.written = settle(spec.rung, draft)

    async def _generate(
        self, spec: RungSpec, state: State, left: TimeLeft, draft: Draft, *, streaming: bool
    ) -> AsyncGenerator[str, None]:
        timeout_s = left.share(self.pipeline.share_of(StepName.GENERATE))
        sampling = state.question.sampling if spec.rung is Rung.CHOSEN_MODEL else Sampling()
        with span(StepName.GENERATE.value, attributes={"penstock.rung": spec.rung.value}):
            messages = state.prompt.messages
            pieces = self.generator.generate(spec.model, messages, sampling, timeout_s, streaming=streaming)
            async with aclosing(pieces):
                async for piece in pieces:
                    draft.served = piece.served or draft.served
                    draft.finished = piece.finished or draft.finished
                    if text := draft.add(piece.text):
                        yield text
            if text := draft.end():
                yield text


def settle(rung: Rung, draft: Draft) -> Written:
    """Return the finished draft, its grounding told in a span."""
    with span(StepName.GROUND.value) as opened:
        grounded = draft.grounding.result()
        opened.set("penstock.ground.seconds", draft.ground_s)
        opened.set("penstock.groundedness", grounded.groundedness)
        opened.set("penstock.citations", len(grounded.citations))
        opened.set("penstock.removed_citations", grounded.removed_citations)
    return Written(grounded, rung, draft.served, draft.finished.usage, draft.finished.finish_reason)
