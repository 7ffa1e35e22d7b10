"""Reads a pipeline and its prompt template from files, and says where a file is wrong."""

from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from orchestrator.core.answer import Rung
from orchestrator.core.pipeline import Pipeline, Rerank, RungSpec, StepName, StepSpec
from orchestrator.core.prompt import Template
from orchestrator.core.question import MAX_PASSAGES

PACKAGE: Final = Path(__file__).parent.parent
PIPELINES: Final = PACKAGE / "pipelines"
PROMPTS: Final = PACKAGE / "prompts"
MOST_CANDIDATES: Final = 64
"""What a ranking model takes at once."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class PipelineFileError(ValueError):
    """A pipeline file or its template is not valid; the message has file and field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Step(_Strict):
    step: StepName
    share: float = Field(gt=0, le=1)


class _Rung(_Strict):
    rung: Rung
    model: str = ""

    @model_validator(mode="after")
    def _model_fits(self) -> "_Rung":
        if bool(self.model) != (self.rung is Rung.EXTRACTIVE_READER):
            raise ValueError("model belongs to the rung extractive_reader, and to no other")
        return self


class _Rerank(_Strict):
    model: Annotated[str, StringConstraints(max_length=128)] = ""
    candidates: int = Field(10, ge=1, le=MOST_CANDIDATES)


class _PipelineFile(_Strict):
    name: Name
    template: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.v[0-9]+\.txt$")]
    model: Name
    top_k: int = Field(ge=1, le=MAX_PASSAGES)
    token_budget: int = Field(ge=256, le=1_000_000)
    steps: list[_Step]
    ladder: list[_Rung]
    rerank: _Rerank = _Rerank()

    def with_model(self, reranker: str) -> Rerank | None:
        """Return how passages are ranked again, if they are: a `reranker` replaces the file's."""
        model = reranker or self.rerank.model
        return Rerank(model, self.rerank.candidates) if model else None


def load_pipeline(
    path: Path, model: str = "", prompts: Path = PROMPTS, reranker: str = ""
) -> tuple[Pipeline, Template]:
    """Return the pipeline and its template; a `model` or `reranker` replaces the file's. Raises PipelineFileError.

    The step rerank is left out while no model is named for it.
    """
    try:
        declared = _PipelineFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        rerank = declared.with_model(reranker)
        pipeline = Pipeline(
            name=declared.name,
            model=model or declared.model,
            top_k=declared.top_k,
            token_budget=declared.token_budget,
            steps=tuple(
                StepSpec(each.step, each.share) for each in declared.steps if rerank or each.step is not StepName.RERANK
            ),
            ladder=tuple(RungSpec(rung.rung, rung.model) for rung in declared.ladder),
            rerank=rerank,
        )
        return pipeline, load_template(prompts / declared.template)
    except ValidationError as error:
        problem = error.errors()[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        raise PipelineFileError(f"{path}: {place.lstrip('.') or 'file'}: {problem['msg']}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PipelineFileError(f"{path}: {error}") from error


def load_template(path: Path) -> Template:
    """Return the template of a file such as `rag-answer.v1.txt`, which is named `rag-answer@1`."""
    name, version, _ = path.name.rsplit(".", 2)
    return Template.read(f"{name}@{version.removeprefix('v')}", path.read_text(encoding="utf-8"))
