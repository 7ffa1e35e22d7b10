"""Where a chat goes: the name in `model` is a model of the catalogue, or a pipeline over a knowledge base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from servicekit.errors import InvalidInput, NotFound

PIPELINE_PREFIX: Final = "rag:"
ROLES: Final = frozenset({"system", "user", "assistant"})


class ModelNotFound(NotFound):
    """No model and no pipeline has this name, or not for this caller."""

    default_reason = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model!r} does not exist or you do not have access to it", field="model")


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model that inference serves."""

    name: str


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Grounded answers from a knowledge base."""

    knowledge_base: str


def target_of(model: str) -> CatalogueModel | Pipeline:
    """Return where a model's name leads; raise InvalidInput when it is empty."""
    if not model:
        raise InvalidInput("a model is needed", field="model")
    if model.startswith(PIPELINE_PREFIX):
        return Pipeline(model.removeprefix(PIPELINE_PREFIX))
    return CatalogueModel(model)


def check_turns(roles: Sequence[str]) -> None:
    """Raise InvalidInput unless there are turns, all of known roles, and the last one is the user's."""
    if not roles:
        raise InvalidInput("at least one message is needed", field="messages")
    for position, role in enumerate(roles):
        if role not in ROLES:
            raise InvalidInput("a role is system, user or assistant", field=f"messages[{position}].role")
    if roles[-1] != "user":
        raise InvalidInput("the last message must be the user's", field=f"messages[{len(roles) - 1}].role")
