"""Passages are ranked again where the pipeline says so, and keep the search's order where that fails."""

import pytest
from orchestrator_fakes import RERANKING, Desk, FakeGenerator, FakeLibrary, FakeRanker, passage
from servicekit.errors import Forbidden, InvalidInput, NotFound, PenstockError, TimedOut, Unavailable

PASSAGES = tuple(passage(f"Passage {number} says that nothing happened.", f"Doc {number}") for number in range(12))
TEXTS = [each.text for each in PASSAGES]


def desk(ranker: FakeRanker) -> Desk:
    written = {"writer": ("Passage 7 says that nothing happened. [1]",)}
    return Desk(FakeGenerator(written), library=FakeLibrary(PASSAGES), ranker=ranker, pipeline=RERANKING)


async def test_the_best_of_many_candidates_are_shown_and_the_model_that_chose_them_is_kept() -> None:
    at = desk(FakeRanker([TEXTS[7], TEXTS[0]]))
    _, answer = await at.ask("What happened?")
    assert at.library.queries[0].top_k == 10, "more are searched than shown, so that there is something to choose"
    assert at.ranker.asked == [("ranker", "What happened?", tuple(TEXTS[:10]))]
    assert [each.text for each in answer.passages] == [TEXTS[7], TEXTS[0], *TEXTS[1:4]], "ties stay as they were found"
    assert answer.degradations == ()
    assert [each.step for each in answer.timings][:4] == ["embed", "search", "rerank", "prompt"]
    (kept,) = at.store.kept
    assert kept.reranked_by is not None
    assert (kept.reranked_by.model, kept.reranked_by.digest) == ("ranker", "sha256:c")


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the queue is full", reason="queue_full"),
        TimedOut("too slow"),
        NotFound("no such model", reason="model_not_found"),
        InvalidInput("it takes other tensors"),
        Forbidden("not in this region", reason="region_not_allowed"),
    ],
)
async def test_without_the_ranker_the_order_of_the_search_stays_and_it_is_said(error: PenstockError) -> None:
    at = desk(FakeRanker(error=error))
    _, answer = await at.ask("What happened?")
    assert [each.text for each in answer.passages] == TEXTS[:5]
    assert [(each.step, each.reason) for each in answer.degradations] == [("rerank", error.reason)]
    assert at.store.kept[0].reranked_by is None


async def test_a_caller_who_wants_more_than_the_candidates_gets_them() -> None:
    at = desk(FakeRanker())
    _, answer = await at.ask("What happened?", top_k=12)
    assert at.library.queries[0].top_k == 12
    assert len(answer.passages) == 12


async def test_the_ranker_gets_its_share_of_the_time_and_nothing_to_do_without_passages() -> None:
    at = desk(FakeRanker())
    await at.ask("What happened?")
    assert at.ranker.timeouts == [30.0 * 0.4]
    at = Desk(FakeGenerator({"writer": ()}), library=FakeLibrary(()), pipeline=RERANKING)
    await at.ask("What happened?")
    assert at.ranker.asked == []


async def test_a_pipeline_without_a_ranker_asks_none_and_searches_no_wider() -> None:
    at = Desk(FakeGenerator({"writer": ("Nothing happened. [1]",)}), library=FakeLibrary(PASSAGES))
    _, answer = await at.ask("What happened?")
    assert at.library.queries[0].top_k == 5
    assert at.ranker.asked == []
    assert "rerank" not in [each.step for each in answer.timings]
