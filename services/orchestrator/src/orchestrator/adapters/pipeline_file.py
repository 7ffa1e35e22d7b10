"""Reads a pipeline and its prompt template from files, and says where a file is wrong."""

from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from orchestrator.core.answer import Rung
from orchestrator.core.pipeline import Pipeline, RungSpec, StepName, StepSpec
from orchestrator.core.prompt import Template
from orchestrator.core.question import MAX_PASSAGES

PACKAGE: Final = Path(__file__).parent.parent
PIPELINES: Final = PACKAGE / "pipelines"
PROMPTS: Final = PACKAGE / "prompts"
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


class _PipelineFile(_Strict):
    name: Name
    template: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.v[0-9]+\.txt$")]
    model: Name
    top_k: int = Field(ge=1, le=MAX_PASSAGES)
    token_budget: int = Field(ge=256, le=1_000_000)
    steps: list[_Step]
    ladder: list[_Rung]


def load_pipeline(path: Path, model: str = "", prompts: Path = PROMPTS) -> tuple[Pipeline, Template]:
    """Return the pipeline and its template; a `model` replaces the file's. Raises PipelineFileError."""
    try:
        declared = _PipelineFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        pipeline = Pipeline(
            name=declared.name,
            model=model or declared.model,
            top_k=declared.top_k,
            token_budget=declared.token_budget,
            steps=tuple(StepSpec(step.step, step.share) for step in declared.steps),
            ladder=tuple(RungSpec(rung.rung, rung.model) for rung in declared.ladder),
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
