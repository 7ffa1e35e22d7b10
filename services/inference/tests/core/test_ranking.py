"""Passages are scored by a model that ranks, and what is no score is a failure of it."""

from collections.abc import Sequence

import pytest
from inference.core.ranking import MOST_PASSAGES, Ranked, Ranker
from servicekit.errors import InvalidInput, Unavailable


class Coding:
    """Tells what it was given in plain words, and reads scores that stand between commas."""

    def request(self, model: str, query: str, passages: Sequence[str]) -> bytes:
        return "|".join([model, query, *passages]).encode()

    def read(self, response: bytes) -> Ranked:
        return Ranked([float(part) for part in response.decode().split(",")], "7")


def ranker(answer: bytes, asked: list[tuple[str, bytes]]) -> Ranker:
    async def infer(model: str, request: bytes) -> bytes:
        asked.append((model, request))
        return answer

    return Ranker(infer, Coding())


async def test_each_passage_gets_a_score() -> None:
    asked: list[tuple[str, bytes]] = []
    assert await ranker(b"1,-2", asked).rank("m", "q", ["a", "b"]) == Ranked([1.0, -2.0], "7")
    assert asked == [("m", b"m|q|a|b")]


@pytest.mark.parametrize("answer", [b"1", b"1,2,3", b"1,nan", b"inf,1", b"one,two"])
async def test_what_is_no_score_for_every_passage_is_a_failure(answer: bytes) -> None:
    with pytest.raises(Unavailable) as caught:
        await ranker(answer, []).rank("m", "q", ["a", "b"])
    assert caught.value.reason == "backend_failed"


@pytest.mark.parametrize(
    ("query", "passages", "field"),
    [
        (" \n", ["a"], "query"),
        ("", ["a"], "query"),
        ("q", [], "passages"),
        ("q", ["a"] * (MOST_PASSAGES + 1), "passages"),
    ],
)
async def test_what_cannot_be_ranked_reaches_no_model(query: str, passages: list[str], field: str) -> None:
    asked: list[tuple[str, bytes]] = []
    with pytest.raises(InvalidInput) as caught:
        await ranker(b"1", asked).rank("m", query, passages)
    assert caught.value.field == field
    assert asked == []
