"""A pipeline file is read as a whole, and an error names its place."""

from pathlib import Path

import pytest
from orchestrator.adapters.pipeline_file import PIPELINES, PROMPTS, PipelineFileError, load_pipeline
from orchestrator.core.grounding import DECLINE
from orchestrator.core.pipeline import Rerank, StepName

TEXT = (PIPELINES / "rag.yaml").read_text()


def test_the_packaged_pipeline_and_template_are_valid() -> None:
    pipeline, template = load_pipeline(PIPELINES / "rag.yaml")
    assert (pipeline.name, pipeline.model, template.name) == ("rag", "extractive-reader", "rag-answer@1")
    assert template.digest.startswith("sha256:")
    assert DECLINE in template.head
    assert "[n]" in template.head
    assert load_pipeline(PIPELINES / "rag.yaml", "other")[0].model == "other"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("top_k: 5", "top_k: 0", "top_k: "),
        ("top_k: 5", "topk: 5", "top_k: Field required"),
        ("share: 0.5", "share: 1.5", "steps[1].share: "),
        ("step: search", "step: serch", "steps[1].step: "),
        ("- {rung: passages_only}", "- {rung: passages_only, model: x}", "ladder[2]: "),
        ("  - {step: prompt, share: 1.0}\n", "", "steps: prompt missing"),
        ("rag-answer.v1.txt", "no-such.v9.txt", "no-such.v9.txt"),
        ("rag-answer.v1.txt", "../x.v1.txt", "template: "),
        ("name: rag", "name: [", "while parsing"),
        ("candidates: 10", "candidates: 65", "rerank.candidates: "),
        ("candidates: 10", "candidate: 10", "rerank.candidate: "),
    ],
)
def test_an_error_names_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TEXT
    (tmp_path / "p.yaml").write_text(TEXT.replace(old, new))
    with pytest.raises(PipelineFileError) as raised:
        load_pipeline(tmp_path / "p.yaml")
    assert said in str(raised.value)
    assert "p.yaml" in str(raised.value)


def test_a_declared_ranker_is_used_and_another_one_can_replace_it(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(TEXT.replace('model: "", candidates: 10', "model: mine, candidates: 20"))
    assert load_pipeline(tmp_path / "p.yaml")[0].rerank == Rerank("mine", 20)
    assert load_pipeline(tmp_path / "p.yaml", reranker="other")[0].rerank == Rerank("other", 20)
    (tmp_path / "p.yaml").write_text(TEXT.replace("  - {step: rerank, share: 0.4}\n", ""))
    assert load_pipeline(tmp_path / "p.yaml")[0].rerank is None
    with pytest.raises(PipelineFileError, match="go together"):
        load_pipeline(tmp_path / "p.yaml", reranker="other")


def test_lexical_search_needs_no_embed_step(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(TEXT.replace("  - {step: embed, share: 0.25}\n", ""))
    pipeline, _ = load_pipeline(tmp_path / "p.yaml", prompts=PROMPTS)
    assert StepName.EMBED not in [step.name for step in pipeline.steps]
