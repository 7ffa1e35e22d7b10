"""Citations are verified against the passages, sentence by sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator.core.answer import Grounded
from orchestrator.core.grounding import DECLINE, Grounding
from orchestrator.core.words import ASCII_WORD, WORD
from orchestrator_fakes import NORMANS, SACKS, passage

PASSAGES = (SACKS, NORMANS)


def ground(text: str, passages=PASSAGES, size: int = 5) -> Grounded:
    grounding = Grounding(passages)
    streamed = "".join(grounding.add(text[at : at + size]) for at in range(0, len(text), size)) + grounding.end()
    grounded = grounding.result()
    assert streamed == grounded.text
    return grounded


def test_a_sentence_of_the_passage_is_cited_where_it_stands() -> None:
    grounded = ground("Kawann Short led the team in sacks with 11. [1]")
    (citation,) = grounded.citations
    assert grounded.text == "Kawann Short led the team in sacks with 11. [1]"
    assert citation.quote == "Kawann Short led the team in sacks with 11."
    assert SACKS.text[citation.start - SACKS.start : citation.end - SACKS.start] == citation.quote
    assert (citation.number, citation.document_id, grounded.groundedness) == (1, "super-bowl-50", 1.0)


def test_a_paraphrase_is_cited_with_the_sentence_that_supports_it() -> None:
    grounded = ground("The team's leader in sacks was Kawann Short [1].")
    assert grounded.citations[0].quote == "Kawann Short led the team in sacks with 11."
    assert 0.5 <= (grounded.groundedness or 0) < 1


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        ("Kawann Short led the team in sacks with 12. [1]", "another number"),
        ("Luke Kuechly and Kawann Short led the team in sacks. [1]", "another name"),
        ("Kawann Short never led the team in sacks. [1]", "denied"),
        ("Kawann Short led the team in sacks with 11. [2]", "another passage"),
        ("Kawann Short led the team in sacks with 11. [9]", "no such passage"),
        ("The Normans were Danes. [2]", "affirmed what is denied"),
        ('The passage says "gave up 308 points" there. [1]', "not word for word"),
        ("The Panthers gave up 308 percent points. [1]", "another unit"),
    ],
)
def test_a_citation_that_the_passage_does_not_bear_out_is_removed_and_counted(claim: str, why: str) -> None:
    grounded = ground(claim)
    assert grounded.text == claim[:-4], why
    assert (grounded.citations, grounded.removed_citations, grounded.groundedness) == ((), 1, 0.0)


@pytest.mark.parametrize(
    "claim",
    [
        "He recovered 2 fumbles and forced 3. [1]",
        "The Panthers \u201cgave up just 308  points\u201d. [1]",
        "The Normans were not Danes. [2]",
        "Normandy is a region in France. [2]",
    ],
)
def test_another_way_to_say_it_is_borne_out(claim: str) -> None:
    assert ground(claim).text == claim


def test_only_bad_markers_of_a_sentence_go() -> None:
    grounded = ground("Kawann Short led the team in sacks with 11. [2][1][7] He was happy.")
    assert grounded.text == "Kawann Short led the team in sacks with 11. [1] He was happy."
    assert grounded.removed_citations == 2
    assert 0 < (grounded.groundedness or 0) < 1


def test_two_passages_bear_a_sentence_out_together() -> None:
    passages = (passage("Ada Lovelace was born in 1815.", "A"), passage("Alan Turing was born in 1912.", "B"))
    claim = "Ada Lovelace was born in 1815 and Alan Turing in 1912. [1][2]"
    assert [citation.number for citation in ground(claim, passages).citations] == [1, 2]


def test_a_verbatim_piece_from_within_a_sentence_is_not_taken_for_the_sentence() -> None:
    grounded = ground("the dam failed. [1]", (passage("It is not true that the dam failed."),))
    assert grounded.citations == ()


@pytest.mark.parametrize(
    "text", [DECLINE, DECLINE.upper(), f" {DECLINE} [1]", "the passages do not answer this question"]
)
def test_a_decline_is_one_and_cites_nothing(text: str) -> None:
    grounded = ground(text)
    assert (grounded.declined, grounded.citations, grounded.groundedness) == (True, (), None)
    assert "[" not in grounded.text


def test_a_decline_with_an_answer_is_none() -> None:
    assert not ground(f"{DECLINE} But Kawann Short led the team in sacks with 11. [1]").declined


def test_white_space_around_the_answer_is_left_out_and_inside_it_kept() -> None:
    grounded = ground("\n\n Kawann Short led.\n\nThe Normans gave their name to Normandy. [2] \n\n [1] \n")
    assert grounded.text.startswith("Kawann Short led.\n\nThe")
    assert grounded.text.strip() == grounded.text


@given(
    st.lists(
        st.sampled_from(["Kawann Short ", "led. ", "[1]", "[2, 1]", "[99]", "\n", "11", ". ", "not ", '"', "["]),
        max_size=40,
    ),
    st.integers(1, 9),
)
def test_what_is_streamed_is_the_answer_and_every_quote_is_in_its_passage(parts: list[str], size: int) -> None:
    grounded = ground("".join(parts), size=size)
    for citation in grounded.citations:
        shown = PASSAGES[citation.number - 1]
        assert shown.text[citation.start - shown.start : citation.end - shown.start] == citation.quote != ""
        assert f"[{citation.number}]" in grounded.text


def test_a_long_answer_is_verified_in_linear_time() -> None:
    text = "Kawann Short led the team in sacks with 11. [1] " * 2_000
    assert len(ground(text, size=50).citations) == 1


@given(st.text(alphabet="abzAZ09 .,'%$-_!\n", max_size=60))
def test_the_fast_way_to_find_words_finds_the_same(text: str) -> None:
    assert ASCII_WORD.findall(text) == WORD.findall(text)
