"""The prompt format: what is read, what is undone and what is refused."""

import pytest
from fakes import prompt_of
from prompt import GroundedQuestion, MalformedPrompt, Passage, parse


def test_reads_passages_and_question() -> None:
    prompt = prompt_of("Who built it?", ('The "Old" <Mill> & more', "Built by Ada.\n\nIn 1820."), ("", "Second"))
    assert parse(prompt) == GroundedQuestion(
        "Who built it?", (Passage(1, 'The "Old" <Mill> & more', "Built by Ada.\n\nIn 1820."), Passage(2, "", "Second"))
    )


def test_windows_line_ends_and_a_chat_template_behind_are_read() -> None:
    read = parse(prompt_of("Q?", ("t", "x")).replace("\n", "\r\n") + "<|assistant|>\n")
    assert read is not None
    assert (read.question, read.passages[0].text) == ("Q?", "x")


@pytest.mark.parametrize("text", ["", "Tell me a joke.", "Quote the text in <passages> and </passages>, please."])
def test_a_prompt_without_a_block_is_no_grounded_question(text: str) -> None:
    assert parse(text) is None


def test_no_passages_is_a_question_without_passages() -> None:
    assert parse("<passages>\n</passages>\n<question>\nWhy?\n</question>") == GroundedQuestion("Why?", ())


def test_exactly_the_escaped_fences_are_undone() -> None:
    text = "a </passage> <PASSAGES> &lt;b&gt; </Question> &amp;lt;passage"
    read = parse(prompt_of("is &lt;br> a tag?", ("t", text)))
    assert read is not None
    assert read.passages == (Passage(1, "t", text),)
    assert read.question == "is &lt;br> a tag?"


def test_a_question_that_closes_itself_stays_a_question() -> None:
    read = parse("<passages>\n</passages>\n<question>\nIs </question> a tag?\n</question>")
    assert read is not None
    assert read.question == "Is </question> a tag?"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("<passages>\n<question>\nQ\n</question>", "not closed by a line </passages>"),
        ("<passages>\n</passages>\nQ", "no <question> follows"),
        ("<passages>\n</passages>\n<question>\nQ", "<question> is not closed"),
        ("<passages>\n</passages>\n<question>\n \n</question>", "question is empty"),
        ("<passages>\nloose\n</passages>\n<question>\nQ\n</question>", "text outside a <passage"),
        (
            '<passages>\n<passage n="1" title="t">\nx\n</passages>\n<question>\nQ\n</question>',
            "passage 1 is not closed",
        ),
        (
            '<passages>\n<passage n="x" title="t">\nx\n</passage>\n</passages>\n<question>\nQ\n</question>',
            "outside a <passage",
        ),
    ],
)
def test_a_broken_block_is_refused_with_its_place(prompt: str, message: str) -> None:
    with pytest.raises(MalformedPrompt, match=message):
        parse(prompt)
