"""The vLLM backend's conventions on options and token limits."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from generation import BadRequest, Options, Output, join, limit_tokens

PARTS = ["One two. [1]", " Three. [2]"]


@dataclass(frozen=True)
class Words:
    """An encoding with one token per word."""

    offsets: Sequence[tuple[int, int]]


class WordTokenizer:
    """Cuts at spaces."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Words:
        assert not add_special_tokens
        ends, at = [], 0
        for word in sequence.split():
            at = sequence.index(word, at) + len(word)
            ends.append((at - len(word), at))
        return Words(ends)


def limited(max_tokens: int | None) -> list[Output]:
    return list(limit_tokens(PARTS, WordTokenizer(), max_tokens))


def test_without_a_limit_every_part_comes_and_the_last_one_stops() -> None:
    assert limited(None) == limited(5) == [Output(PARTS[0], 3, None), Output(PARTS[1], 2, "stop")]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [Output("One", 1, "length")]),
        (3, [Output(PARTS[0], 3, "length")]),
        (4, [Output(PARTS[0], 3, None), Output(" Three.", 1, "length")]),
    ],
)
def test_a_limit_cuts_after_that_many_tokens(limit: int, expected: list[Output]) -> None:
    assert limited(limit) == expected


def test_joined_outputs_are_one_with_the_prompt_before_it() -> None:
    assert join(limited(4), "Q: ") == Output("Q: One two. [1] Three.", 4, "length")


@pytest.mark.parametrize(
    ("stream", "exclude", "prepend"),
    [(False, None, True), (False, True, False), (False, False, True), (True, None, False), (True, True, False)],
)
def test_the_prompt_comes_back_as_in_the_vllm_backend(stream: bool, exclude: bool | None, prepend: bool) -> None:
    assert Options.of(stream, exclude, None) == Options(stream, prepend, None)


def test_other_sampling_parameters_are_ignored() -> None:
    assert Options.of(True, None, '{"temperature": "hot", "n": 3, "max_tokens": "7", "lora_name": "x"}').max_tokens == 7
    assert Options.of(True, None, '{"temperature": 0}').max_tokens is None
    assert Options.of(True, None, "").max_tokens is None


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"max_tokens": 0}', "at least 1"),
        ('{"max_tokens": true}', "at least 1"),
        ('{"max_tokens": "many"}', "not a number"),
        ('{"max_tokens": [1]}', "not a number"),
    ],
)
def test_a_wrong_sampling_parameter_is_refused(sampling: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        Options.of(True, None, sampling)


def test_streaming_the_prompt_back_is_refused() -> None:
    with pytest.raises(BadRequest, match="exclude_input_in_output"):
        Options.of(True, False, None)
