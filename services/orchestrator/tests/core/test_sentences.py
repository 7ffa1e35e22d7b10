"""Sentences, whole and streamed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator.core.sentences import MAX_HELD_CHARS, SentenceBuffer, sentence_spans


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It cost 3.5 m. Dr. J. Poe of the U.S. Army paid.", ["It cost 3.5 m.", "Dr. J. Poe of the U.S. Army paid."]),
        ("Made in the U.S. The rest came later.", ["Made in the U.S.", "The rest came later."]),
        ("He said \u201cStop.\u201d Then he left.", ["He said \u201cStop.\u201d", "Then he left."]),
        ("First.\n\nSecond heading\n\nThird.", ["First.", "Second heading", "Third."]),
        ("Wrapped over\ntwo lines. Next.", ["Wrapped over\ntwo lines.", "Next."]),
        ("\u4eca\u65e5\u306f\u96e8\u3002\u660e\u65e5\u3002", ["\u4eca\u65e5\u306f\u96e8\u3002", "\u660e\u65e5\u3002"]),
        ("Before\n## The ladder\nWhen it\nfails. Then", ["Before", "When it\nfails.", "Then"]),
        ("e.g. this one. And that", ["e.g. this one.", "And that"]),
        ("", []),
        ("  \n ", []),
    ],
)  # fmt: skip
def test_documents_are_cut_where_sentences_end(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def stream(text: str, size: int) -> list[str]:
    buffer = SentenceBuffer()
    found = [sentence for at in range(0, len(text), size) for sentence in buffer.add(text[at : at + size])]
    return found + buffer.end()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_markers_after_the_full_stop_belong_to_the_sentence_before(size: int) -> None:
    text = "A is 3.5 long. [1][3] B is [2]. C! [4, 5]\n- D [6]\n- E"
    assert stream(text, size) == ["A is 3.5 long. [1][3]", " B is [2].", " C! [4, 5]", "\n- D [6]", "\n- E"]


def test_a_sentence_is_out_as_soon_as_it_is_surely_whole() -> None:
    buffer = SentenceBuffer()
    assert buffer.add("It rains. [1]") == []
    assert buffer.add(" So stay in") == ["It rains. [1]"]


def test_what_never_ends_is_let_out_in_pieces() -> None:
    buffer = SentenceBuffer()
    out = buffer.add("word " * 2_000)
    assert out
    assert max(map(len, out)) <= MAX_HELD_CHARS
    assert "".join(out + buffer.end()) == "word " * 2_000


@given(
    st.lists(
        st.sampled_from(["A", " b", ". ", "[1]", " [", "2]", "\n", "Dr.", "3.", "\u3002", '."', "?"]), max_size=40
    ),
    st.integers(1, 5),
)
def test_pieces_joined_are_the_text_however_it_is_cut(parts: list[str], size: int) -> None:
    text = "".join(parts)
    assert "".join(stream(text, size)) == text
    assert stream(text, size) == stream(text, 1)


def test_spaced_dots_do_not_tear_a_marker_off() -> None:
    assert stream("He said he was here to . . . [1] Next.", 4) == ["He said he was here to . . . [1]", " Next."]
