"""Builds the prompt within a token budget: instructions, passages fenced as data, then the question."""

import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from servicekit.errors import InvalidInput

from orchestrator.core.passage import Passage
from orchestrator.core.ports import CountTokens
from orchestrator.core.question import Message
from orchestrator.core.sentences import sentence_spans

FENCE: Final = re.compile(r"<(?=/?(?:passage|question))", re.IGNORECASE)
PLACES: Final = ("{{passages}}", "{{question}}")
FENCE_TOKENS: Final = 24  # what the tags around one passage cost at most
MESSAGE_TOKENS: Final = 8  # and the role and marks of one message


@dataclass(frozen=True, slots=True)
class Template:
    """A versioned prompt text with one place for the passages and, after it, one for the question."""

    name: str
    digest: str
    head: str
    middle: str
    tail: str

    @classmethod
    def read(cls, name: str, text: str) -> "Template":
        """Cut the text at its places; ValueError when they are not there exactly once, in order."""
        parts = re.split("|".join(map(re.escape, PLACES)), text)
        if re.findall("|".join(map(re.escape, PLACES)), text) != list(PLACES):
            raise ValueError(f"{name}: has to hold {PLACES[0]} and then {PLACES[1]}, once each")
        head, middle, tail = parts
        return cls(name, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", head, middle, tail.rstrip())


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is sent, and the passages in it, as they are shown: number n is the n-th."""

    messages: tuple[Message, ...]
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class PromptBuilder:
    """Builds prompts of at most `token_budget` tokens; `count` is asked for each passage, so it should remember."""

    template: Template
    token_budget: int
    count: CountTokens

    def build(self, question: str, history: Sequence[Message], passages: Sequence[Passage]) -> Prompt:
        """Return the prompt with as many passages, best first, as fit; the last one may be cut after a sentence.

        Raises InvalidInput when question and history alone leave no room.
        """
        fixed = self.template.head + self.template.middle + self.template.tail
        turns = [Message(turn.role, escape(turn.content)) for turn in history]
        spent = self.count(fixed) + sum(
            self.count(text) + MESSAGE_TOKENS for text in [question, *(t.content for t in turns)]
        )
        if spent >= self.token_budget:
            raise InvalidInput(
                f"question and history take {spent} tokens; the prompt has room for {self.token_budget}",
                reason="prompt_too_long",
                field="question.history" if turns else "question.text",
            )
        shown = self._fitting(passages, self.token_budget - spent)
        fenced = "\n".join(fence(number, passage) for number, passage in enumerate(shown, start=1))
        text = f"{self.template.head}{fenced}{self.template.middle}{escape(question)}{self.template.tail}"
        return Prompt((*turns, Message("user", text)), shown)

    def _fitting(self, passages: Sequence[Passage], budget: int) -> tuple[Passage, ...]:
        shown: list[Passage] = []
        for passage in passages:
            budget -= FENCE_TOKENS + self.count(passage.document_title)
            tokens = self.count(passage.text)
            if tokens > budget:
                shown.extend(self._cut(passage, budget))
                break
            budget -= tokens
            shown.append(passage)
        return tuple(shown)

    def _cut(self, passage: Passage, budget: int) -> list[Passage]:
        """Return the passage up to the last sentence that fits, or nothing."""
        end = 0
        for start, stop in sentence_spans(passage.text):
            budget -= self.count(passage.text[start:stop])
            if budget < 0:
                break
            end = stop
        return [replace(passage, text=passage.text[:end], end=passage.start + end)] if end else []


def escape(text: str) -> str:
    """Return `text` with nothing in it that could open or close a fence."""
    return FENCE.sub("&lt;", text)


def fence(number: int, passage: Passage) -> str:
    """Return a passage between its tags."""
    title = html.escape(" ".join(passage.document_title.split()))
    return f'<passage n="{number}" title="{title}">\n{escape(passage.text)}\n</passage>'
