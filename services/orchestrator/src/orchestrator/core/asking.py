"""Answers a question: runs the declared steps within the deadline, writes down the ladder, keeps the provenance."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Final

from servicekit import deadline
from servicekit.errors import TimedOut, Unavailable
from servicekit.telemetry import genai, span, trace_id

from orchestrator.core import meters
from orchestrator.core.answer import Answer, Provenance, StepTiming
from orchestrator.core.pipeline import Pipeline, StepName, TimeLeft
from orchestrator.core.ports import ProvenanceStore
from orchestrator.core.prompt import Template
from orchestrator.core.question import Question
from orchestrator.core.steps import State, Step, degradation
from orchestrator.core.writing import Outcome, Writer

CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ULID_CHARS: Final = 26
ULID_RANDOM_BITS: Final = 80


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time and chance: `monotonic` and `now` in seconds, `now` since 1970."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    random_bits: Callable[[int], int] = secrets.randbits

    def answer_id(self) -> str:
        """Return a new id: `ans_` and a ULID (48 bits of milliseconds, 80 of chance), so that ids sort by time."""
        value = (int(self.now() * 1000) << ULID_RANDOM_BITS) | self.random_bits(ULID_RANDOM_BITS)
        return "ans_" + "".join(CROCKFORD[value >> shift & 31] for shift in range(5 * (ULID_CHARS - 1), -1, -5))


CLOCKS: Final = Clocks()


@dataclass(frozen=True, slots=True)
class Answerer:
    """One pipeline, ready to answer; `default_deadline_s` holds for callers without a deadline."""

    pipeline: Pipeline
    template: Template
    steps: Mapping[StepName, Step]
    writer: Writer
    store: ProvenanceStore
    default_deadline_s: float
    clocks: Clocks = CLOCKS

    async def answer(self, question: Question, *, streaming: bool) -> AsyncGenerator[str | Answer, None]:
        """Yield verified sentences when `streaming`, and last the Answer, whose text is all of them joined.

        Raises InvalidInput, NotFound (knowledge base, model), Conflict (encoder_mismatch), Unavailable, TimedOut.
        """
        question.check()
        attributes = {
            genai.OPERATION_NAME: genai.INVOKE_WORKFLOW,
            genai.WORKFLOW_NAME: self.pipeline.name,
            genai.DATA_SOURCE_ID: question.knowledge_base,
        }
        with span(f"{genai.INVOKE_WORKFLOW} {self.pipeline.name}", attributes=attributes):
            left = self._time_left()
            timings: list[StepTiming] = []
            state = await self._prepare(question, left, timings)
            outcome = Outcome()
            with self._timed(StepName.GENERATE.value, timings):
                async with aclosing(self.writer.write(state, left, outcome, streaming=streaming)) as texts:
                    async for text in texts:
                        yield text
            timings.append(StepTiming(StepName.GROUND.value, outcome.ground_s))
            meters.SECONDS_OF[StepName.GROUND.value].observe(outcome.ground_s)
            yield await self._finish(state, outcome, timings)

    def _time_left(self) -> TimeLeft:
        remaining_s = deadline.remaining_s()
        clock = self.clocks.monotonic
        return TimeLeft(clock() + (self.default_deadline_s if remaining_s is None else remaining_s), clock)

    async def _prepare(self, question: Question, left: TimeLeft, timings: list[StepTiming]) -> State:
        state = State(question, question.top_k or self.pipeline.top_k)
        for spec in self.pipeline.steps:
            step = self.steps.get(spec.name)
            if step is None:
                continue
            timeout_s = left.share(spec.share)
            with self._timed(spec.name.value, timings), span(spec.name.value):
                state = await step(state, timeout_s)
        return state

    async def _finish(self, state: State, outcome: Outcome, timings: list[StepTiming]) -> Answer:
        written = outcome.written
        assert written is not None  # the writer fills it in or raises
        degradations = (*state.degradations, *outcome.degradations)
        answer = Answer(self.clocks.answer_id(), written, state.prompt.passages, degradations, tuple(timings))
        try:
            await self.store.keep(self._provenance(state, answer))
        except (Unavailable, TimedOut) as error:
            answer = replace(answer, degradations=(*degradations, degradation("provenance", error)))
        meters.ANSWERS.labels(written.rung.value, str(written.grounded.declined).lower()).inc()
        meters.REMOVED_CITATIONS.inc(written.grounded.removed_citations)
        for fallen in answer.degradations:
            meters.DEGRADATIONS.labels(fallen.step, fallen.reason).inc()
        return answer

    def _provenance(self, state: State, answer: Answer) -> Provenance:
        return Provenance(
            answer=answer,
            tenant=state.question.tenant,
            created_at=self.clocks.now(),
            pipeline=self.pipeline.name,
            prompt_template=self.template.name,
            prompt_template_digest=self.template.digest,
            knowledge_base=state.question.knowledge_base,
            knowledge_base_revision=state.found.revision,
            encoder_digest=state.embedding.encoder.digest if state.embedding is not None else "",
            trace_id=trace_id(),
            reranked_by=state.reranked_by,
        )

    @contextmanager
    def _timed(self, step: str, timings: list[StepTiming]) -> Iterator[None]:
        start = self.clocks.monotonic()
        try:
            yield
        finally:
            seconds = self.clocks.monotonic() - start
            timings.append(StepTiming(step, seconds))
            meters.SECONDS_OF[step].observe(seconds)
