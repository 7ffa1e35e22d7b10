"""Cards are read strictly, and those of this folder are right."""

from collections.abc import Callable
from pathlib import Path

import pytest
from model_repository.card import CardError, read_card, read_cards

MODELS = Path(__file__).parents[1]


def test_every_card_here_is_valid_and_borrowers_come_last() -> None:
    cards = read_cards(MODELS)
    assert "minilm-l6" in [card.name for card in cards]
    needy = [(bool(card.needs.models), card.needs.tokenizer is not None) for card in cards]
    assert needy == sorted(needy), "what others need is built before them"


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"licens": "MIT"}, "licens: Extra inputs"),
        ({"inputs": [{"name": "text", "shape": [1]}]}, "inputs.0.datatype: Field required"),
        ({"kind": "encoder"}, "encoder and variants"),
        ({"name": "other"}, "not the name of its folder"),
        ({"needs": {"tokenizer": "../x"}}, "needs.tokenizer"),
    ],
)
def test_a_wrong_card_is_refused_with_its_field(
    add_card: Callable[..., Path], changed: dict[str, object], complaint: str
) -> None:
    folder = add_card("reader", **changed)
    with pytest.raises(CardError, match=complaint) as refused:
        read_card(folder / "model.yaml")
    assert str(folder) in str(refused.value)


def test_a_card_that_is_not_yaml_is_refused(add_card: Callable[..., Path]) -> None:
    folder = add_card("reader")
    (folder / "model.yaml").write_text("name: [", "utf-8")
    with pytest.raises(CardError, match=r"model\.yaml"):
        read_card(folder / "model.yaml")
