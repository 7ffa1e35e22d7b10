"""Where a sentence ends and where it does not."""

import pytest
from sentences import split_sentences


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith met J. R. R. Tolkien at 5 p.m. in St. Ives.",
        "The U.S. Senate voted, e.g. Mr. Hale.",
        "It grew by 3.14 percent, i.e. 1.5 points.",
        "See Fig. 3 and no. 7 of vol. 2 for more.",
        "Born c. 1412, she rose (cf. Warner) early.",
        "Version 2.0.1 of example.com/a.b is out!",
    ],
)
def test_keeps_a_sentence_whole(sentence: str) -> None:
    assert split_sentences(f"{sentence} Then came another.") == [sentence, "Then came another."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He left in the U.S. The war went on.", ["He left in the U.S.", "The war went on."]),
        ('"Stop!" she said. Why? Nobody knew...', ['"Stop!" she said.', "Why?", "Nobody knew..."]),
        ("It was so.[12] Others doubt it.", ["It was so.[12]", "Others doubt it."]),
        ("So was I. But he left.", ["So was I.", "But he left."]),
        ("A heading\n\nThe text\nruns on.", ["A heading", "The text runs on."]),
        ("- one\n- two\n1. three", ["- one", "- two", "1. three"]),
        ("水は冷たい。山は高い！", ["水は冷たい。", "山は高い！"]),
        ("यह एक है। वह दो है।", ["यह एक है।", "वह दो है।"]),
        ("", []),
        (" \n ... \n", []),
    ],
)
def test_splits(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_a_sentence_without_end_is_cut_at_spaces() -> None:
    pieces = split_sentences("word " * 1000, max_chars=100)
    assert max(map(len, pieces)) <= 100
    assert " ".join(pieces).split() == ["word"] * 1000


def test_a_heading_is_no_sentence_and_joins_none() -> None:
    text = "Before it.\n## The ladder\nWhen the model fails,\nthe reader answers.\n# End"
    assert split_sentences(text) == ["Before it.", "When the model fails, the reader answers."]
