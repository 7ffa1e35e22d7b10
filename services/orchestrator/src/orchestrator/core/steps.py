"""The steps that prepare an answer: each takes the state so far and its share of time, and returns the next state."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from servicekit.errors import PenstockError, TimedOut, Unavailable

from orchestrator.core.answer import Degradation
from orchestrator.core.passage import Embedding, Found, Query
from orchestrator.core.pipeline import StepName
from orchestrator.core.ports import Embedder, Searcher
from orchestrator.core.prompt import Prompt, PromptBuilder
from orchestrator.core.question import Question, SearchMode

NOTHING_FOUND: Final = Found((), 0)
NO_PROMPT: Final = Prompt((), ())


@dataclass(frozen=True, slots=True)
class State:
    """What is known of an answer in the making; a step fills in what it is for."""

    question: Question
    top_k: int
    embedding: Embedding | None = None
    found: Found = NOTHING_FOUND
    prompt: Prompt = NO_PROMPT
    degradations: tuple[Degradation, ...] = ()


Step = Callable[[State, float], Awaitable[State]]


def degradation(step: str, error: PenstockError) -> Degradation:
    """Return the degradation that an error in a step means."""
    return Degradation(step, error.reason, error.message)


def embed(embedder: Embedder) -> Step:
    """Embed the question; without an encoder the search goes on with words alone, and says so."""

    async def run(state: State, timeout_s: float) -> State:
        try:
            return replace(state, embedding=await embedder.embed([state.question.text], timeout_s))
        except (Unavailable, TimedOut) as error:
            return replace(state, degradations=(*state.degradations, degradation(StepName.EMBED.value, error)))

    return run


def search(searcher: Searcher) -> Step:
    """Find the passages; a search that cannot be reached is Unavailable, there is nothing to answer from."""

    async def run(state: State, timeout_s: float) -> State:
        question = state.question
        query = Query(
            knowledge_base=question.knowledge_base,
            text=question.text,
            embedding=state.embedding,
            top_k=state.top_k,
            filter=question.filter,
            mode=SearchMode.HYBRID if state.embedding is not None else SearchMode.LEXICAL,
            min_revision=question.min_revision,
        )
        return replace(state, found=await searcher.search(query, timeout_s))

    return run


def prompt(builder: PromptBuilder) -> Step:
    """Build the prompt within its token budget."""

    async def run(state: State, timeout_s: float) -> State:
        del timeout_s
        question = state.question
        return replace(state, prompt=builder.build(question.text, question.history, state.found.passages))

    return run


def preparing(embedder: Embedder, searcher: Searcher, builder: PromptBuilder) -> Mapping[StepName, Step]:
    """Return the preparing steps by name; the writing ones, generate and ground, are the Writer's."""
    return {StepName.EMBED: embed(embedder), StepName.SEARCH: search(searcher), StepName.PROMPT: prompt(builder)}
