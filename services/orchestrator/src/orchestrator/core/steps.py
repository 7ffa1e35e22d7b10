"""The steps that prepare an answer: each takes the state so far and its share of time, and returns the next state."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from servicekit.errors import PenstockError, TimedOut, Unavailable

from orchestrator.core.answer import Degradation, ServedModel
from orchestrator.core.passage import Embedding, Found, Query
from orchestrator.core.pipeline import Rerank, StepName
from orchestrator.core.ports import Embedder, Ranker, Searcher
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
    reranked_by: ServedModel | None = None
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


def search(searcher: Searcher, candidates: int = 0) -> Step:
    """Find the passages, at least `candidates`; a search that cannot be reached is Unavailable: there is no answer."""

    async def run(state: State, timeout_s: float) -> State:
        question = state.question
        query = Query(
            knowledge_base=question.knowledge_base,
            text=question.text,
            embedding=state.embedding,
            top_k=max(state.top_k, candidates),
            filter=question.filter,
            mode=SearchMode.HYBRID if state.embedding is not None else SearchMode.LEXICAL,
            min_revision=question.min_revision,
        )
        return replace(state, found=await searcher.search(query, timeout_s))

    return run


def rerank(ranker: Ranker, model: str) -> Step:
    """Rank the passages again and keep the best; a model that cannot rank them leaves their order, and that is said.

    Whatever is wrong with the model is none of the caller's doing, so that no error of it is his.
    """

    async def run(state: State, timeout_s: float) -> State:
        passages = state.found.passages
        if not passages:
            return state
        try:
            ranking = await ranker.rank(model, state.question.text, [each.text for each in passages], timeout_s)
        except PenstockError as error:
            kept = replace(state.found, passages=passages[: state.top_k])
            fallen = degradation(StepName.RERANK.value, error)
            return replace(state, found=kept, degradations=(*state.degradations, fallen))
        order = sorted(range(len(passages)), key=lambda place: -ranking.scores[place])
        best = tuple(passages[place] for place in order[: state.top_k])
        return replace(state, found=replace(state.found, passages=best), reranked_by=ranking.served)

    return run


def prompt(builder: PromptBuilder) -> Step:
    """Build the prompt within its token budget."""

    async def run(state: State, timeout_s: float) -> State:
        del timeout_s
        question = state.question
        return replace(state, prompt=builder.build(question.text, question.history, state.found.passages))

    return run


def preparing(
    embedder: Embedder, searcher: Searcher, builder: PromptBuilder, ranker: Ranker, again: Rerank | None
) -> Mapping[StepName, Step]:
    """Return the preparing steps by name, and how passages are ranked `again` if at all.

    The writing steps, generate and ground, are the Writer's.
    """
    steps = {StepName.EMBED: embed(embedder), StepName.SEARCH: search(searcher), StepName.PROMPT: prompt(builder)}
    if again is not None:
        steps[StepName.SEARCH] = search(searcher, again.candidates)
        steps[StepName.RERANK] = rerank(ranker, again.model)
    return steps
