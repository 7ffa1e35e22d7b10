"""Reads a model card (`model.yaml`): what a model is, where it comes from and which variants of it are built."""

from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Target = Literal["cpu", "gpu"]
Graph = Literal["int8", "fp32", "portable"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


GRAPHS: Final = ("encoder", "ranker")
"""The kinds whose graph is written here, from published weights."""


class CardError(ValueError):
    """A card is missing, is not YAML, or has a wrong field; the message names the file and the field."""


class Strict(BaseModel):
    """Unknown fields are errors, so that a typo does not pass silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tensor(Strict):
    """One input or output, as OIP names it."""

    name: str
    datatype: str
    shape: list[int | str]
    meaning: str = ""


class EncoderSource(Strict):
    """Where an encoder's weights lie, and what its vectors are."""

    package: str = Field(description="import name of the installed package that carries the weights")
    folder: str = Field(description="folder inside it, with config.json, model.safetensors and tokenizer.json")
    dimensions: int = Field(gt=0)
    pooling: Literal["mean"]
    max_tokens: int = Field(gt=0, description="longest input the model was trained for; callers truncate to it")


class Tolerance(Strict):
    """How far the outputs of a variant may be from the golden ones: in each element, and in each row's direction."""

    atol: float = Field(ge=0)
    min_cosine: float = Field(ge=-1, le=1)


class Variant(Strict):
    """One Triton model made from the card: its name there, and how its graph is written for each target."""

    name: Name
    summary: str = ""
    graph: dict[Target, Graph]
    served: bool = Field(True, description="loaded when the server starts; another one is loaded on request")
    tolerance: Tolerance | None = Field(None, description="of golden.json beside the card, which needs one")


class Needs(Strict):
    """What a model takes from another card."""

    tokenizer: Name | None = None
    activations: Name | None = Field(None, description="whose int8 ranges hold here: a model of the same encoder")
    models: list[Name] = Field([], description="models that an ensemble runs; its digest covers theirs")


class Card(Strict):
    """A model card."""

    name: Name
    version: int = Field(gt=0)
    kind: Literal["encoder", "ranker", "python", "ensemble"]
    summary: str
    licence: str
    source: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    needs: Needs = Needs()
    encoder: EncoderSource | None = None
    variants: list[Variant] = []
    limits: list[str] = []
    cost: dict[str, object] = {}
    quality: dict[str, object] = {}


def read_card(path: Path) -> Card:
    """Return the card at `path`; raise CardError with the file and the path of each wrong field."""
    try:
        card = Card.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise CardError(f"{path}: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise CardError(f"{path}: {wrong}") from error
    if (card.kind in GRAPHS) != (card.encoder is not None and bool(card.variants)):
        raise CardError(f"{path}: an encoder or a ranker, and nothing else, has the fields encoder and variants")
    if (card.kind == "ensemble") != bool(card.needs.models):
        raise CardError(f"{path}: needs.models: an ensemble, and nothing else, needs models")
    if card.name != path.parent.name:
        raise CardError(f"{path}: name: {card.name} is not the name of its folder")
    return card


def read_cards(models: Path) -> list[Card]:
    """Return the cards of all folders under `models` that have one; those that need nothing come first."""
    cards = [read_card(path) for path in sorted(models.glob("*/model.yaml"))]
    return sorted(cards, key=lambda card: (bool(card.needs.models), card.needs.tokenizer is not None, card.name))
