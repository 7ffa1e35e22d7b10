"""Where a chat goes: the name in `model` is a model or an alias of models, or a pipeline over a knowledge base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from servicekit.errors import InvalidInput, NotFound

PIPELINE_PREFIX: Final = "rag:"
LONGEST_NAME: Final = 256
ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
PIPELINE_ROLES: Final = ROLES - {"tool"}


class ModelNotFound(NotFound):
    """No model and no pipeline has this name, or not for this caller."""

    default_reason = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model!r} does not exist or you do not have access to it", field="model")


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model that inference serves, or an alias of several."""

    name: str


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Grounded answers from a knowledge base."""

    knowledge_base: str


def target_of(model: str) -> CatalogueModel | Pipeline:
    """Return where a model's name leads; raise InvalidInput when it is empty or longer than a name is."""
    if not model:
        raise InvalidInput("a model is needed", field="model")
    if len(model) > LONGEST_NAME:
        raise InvalidInput(f"a model's name has at most {LONGEST_NAME} characters", field="model")
    if model.startswith(PIPELINE_PREFIX):
        return Pipeline(model.removeprefix(PIPELINE_PREFIX))
    return CatalogueModel(model)


def check_turns(roles: Sequence[str], *, pipeline: bool = False) -> None:
    """Raise InvalidInput unless there are turns, all of known roles, and the last one can be answered.

    A pipeline answers a user's question. A model answers whatever is not already an answer.
    """
    if not roles:
        raise InvalidInput("at least one message is needed", field="messages")
    known = PIPELINE_ROLES if pipeline else ROLES
    if not known.issuperset(roles):
        position = next(index for index, role in enumerate(roles) if role not in known)
        raise InvalidInput(f"a role is one of {', '.join(sorted(known))}", field=f"messages[{position}].role")
    if roles[-1] == "assistant" or (pipeline and roles[-1] != "user"):
        whose = "the user's" if pipeline else "one that an assistant can answer"
        raise InvalidInput(f"the last message must be {whose}", field=f"messages[{len(roles) - 1}].role")
