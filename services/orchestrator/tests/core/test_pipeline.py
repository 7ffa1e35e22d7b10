"""A pipeline's declaration is checked as a whole."""

from dataclasses import replace

import pytest
from orchestrator.core.answer import Rung
from orchestrator.core.pipeline import Rerank, RungSpec, StepName, StepSpec, TimeLeft
from orchestrator_fakes import RAG, RERANKING
from servicekit.errors import TimedOut


def test_steps_stand_in_the_order_of_what_they_need() -> None:
    with pytest.raises(ValueError, match="in the order"):
        replace(RAG, steps=RAG.steps[::-1])
    with pytest.raises(ValueError, match="ground missing"):
        replace(RAG, steps=RAG.steps[:-1])
    with pytest.raises(ValueError, match="each once"):
        replace(RAG, steps=(RAG.steps[0], *RAG.steps))
    assert replace(RAG, steps=RAG.steps[1:]).share_of(StepName.SEARCH) == 0.5
    assert StepSpec(StepName.EMBED, 0.25) in RAG.steps


def test_the_step_rerank_and_its_model_go_together() -> None:
    assert RERANKING.rerank == Rerank("ranker", 10)
    assert StepName.RERANK in [step.name for step in RERANKING.steps]
    assert StepName.RERANK not in [step.name for step in RAG.steps]
    with pytest.raises(ValueError, match="go together"):
        replace(RERANKING, rerank=None)
    with pytest.raises(ValueError, match="go together"):
        replace(RAG, rerank=Rerank("ranker", 10))


def test_the_ladder_begins_with_the_chosen_model() -> None:
    with pytest.raises(ValueError, match="begin with chosen_model"):
        replace(RAG, ladder=(RungSpec(Rung.PASSAGES_ONLY),))
    with pytest.raises(ValueError, match="in the order"):
        replace(RAG, ladder=RAG.ladder[::-1])


def test_time_that_ran_out_is_said() -> None:
    moment = [0.0]
    left = TimeLeft(10.0, lambda: moment[0])
    assert left.share(0.5) == 5.0
    moment[0] = 10.0
    with pytest.raises(TimedOut):
        left.share(1.0)
