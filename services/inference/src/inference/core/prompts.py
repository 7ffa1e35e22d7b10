"""Turns a conversation into the one text that a text model reads."""

from collections.abc import Callable, Sequence
from enum import Enum

from inference.core.conversation import Turn


class PromptFormat(Enum):
    """How a text model wants its conversation."""

    PLAIN = "plain"
    CHATML = "chatml"


def plain(turns: Sequence[Turn]) -> str:
    """Return the contents, a blank line between them: for models that were not trained on roles."""
    return "\n\n".join(turn.text() for turn in turns)


def chatml(turns: Sequence[Turn]) -> str:
    """Return the conversation in ChatML; a marker inside a message is broken up, so that no message can open a turn."""
    parts = [f"<|im_start|>{turn.role}\n{_defused(turn.text())}<|im_end|>\n" for turn in turns]
    return "".join(parts) + "<|im_start|>assistant\n"


FORMATS: dict[PromptFormat, Callable[[Sequence[Turn]], str]] = {
    PromptFormat.PLAIN: plain,
    PromptFormat.CHATML: chatml,
}


def _defused(content: str) -> str:
    return content.replace("<|im_start|>", "<| im_start |>").replace("<|im_end|>", "<| im_end |>")
