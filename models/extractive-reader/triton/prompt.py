"""Reads the grounded-question prompt: fenced passages, then a question; what is fenced is only ever data."""

import html
import re
from dataclasses import dataclass

PASSAGES_OPEN = re.compile(r"^[ \t]*<passages>[ \t]*\r?$", re.MULTILINE)
PASSAGES_CLOSE = re.compile(r"^[ \t]*</passages>[ \t]*\r?$", re.MULTILINE)
PASSAGE_OPEN = re.compile(r'^[ \t]*<passage n="(\d{1,6})" title="([^"\n]*)">[ \t]*\r?$', re.MULTILINE)
PASSAGE_CLOSE = re.compile(r"^[ \t]*</passage>[ \t]*\r?$", re.MULTILINE)
INK = re.compile(r"\S")
QUESTION_OPEN = re.compile(r"\s*<question>")
QUESTION_CLOSE = "</question>"
ESCAPED_FENCE = re.compile(r"&lt;(?=/?(?:passage|question))", re.IGNORECASE)


class MalformedPrompt(ValueError):
    """The prompt opens a block of passages but does not keep to the format."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One numbered text the answer may be taken from."""

    number: int
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class GroundedQuestion:
    """A question and the passages, best first, that may answer it."""

    question: str
    passages: tuple[Passage, ...]


def parse(prompt: str) -> GroundedQuestion | None:
    """Return what the prompt asks, or None when it has no block of passages; MalformedPrompt says what is wrong."""
    opened = PASSAGES_OPEN.search(prompt)
    if opened is None:
        return None
    closed = PASSAGES_CLOSE.search(prompt, opened.end())
    if closed is None:
        raise MalformedPrompt("<passages> is not closed by a line </passages>")
    question = _question(prompt[closed.end() :])
    return GroundedQuestion(question, tuple(_passages(prompt[opened.end() : closed.start()])))


def _question(rest: str) -> str:
    opened = QUESTION_OPEN.match(rest)
    if opened is None:
        raise MalformedPrompt("no <question> follows </passages>")
    closed = rest.rfind(QUESTION_CLOSE)
    if closed < 0:
        raise MalformedPrompt("<question> is not closed by </question>")
    question = _unfence(rest[opened.end() : closed]).strip()
    if not question:
        raise MalformedPrompt("the question is empty")
    return question


def _passages(block: str) -> list[Passage]:
    found: list[Passage] = []
    at = 0
    while INK.search(block, at):
        opened = PASSAGE_OPEN.search(block, at)
        if opened is None or block[at : opened.start()].strip():
            raise MalformedPrompt(f'text outside a <passage n="..." title="..."> after passage {len(found)}')
        closed = PASSAGE_CLOSE.search(block, opened.end())
        if closed is None:
            raise MalformedPrompt(f"passage {opened[1]} is not closed by a line </passage>")
        text = _unfence(block[opened.end() : closed.start()]).strip()
        found.append(Passage(int(opened[1]), html.unescape(opened[2]), text))
        at = closed.end()
    return found


def _unfence(text: str) -> str:
    return ESCAPED_FENCE.sub("<", text)
