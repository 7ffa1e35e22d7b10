"""Real English text that is on every machine: the documentation strings of Python's own library."""

import ast
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHORTEST, LONGEST = 80, 900
QUESTION_WORDS = 14
PROSE = re.compile(r"[A-Z][a-z]+ [a-z].*\.$")


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph, and a question made of its opening words."""

    document_id: str
    text: str
    question: str


def passages(count: int) -> list[Passage]:
    """Return the first `count` distinct paragraphs of 80 to 900 characters, the same ones on every run."""
    found: dict[str, Passage] = {}
    for text in _paragraphs():
        if text not in found and SHORTEST <= len(text) <= LONGEST and PROSE.match(text):
            question = " ".join(text.split()[:QUESTION_WORDS]) + "?"
            found[text] = Passage(f"passage-{len(found):05}", text, question)
            if len(found) == count:
                return list(found.values())
    raise RuntimeError(f"the library has only {len(found)} paragraphs; {count} were asked for")


def _paragraphs() -> Iterator[str]:
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in file.parts or "test" in file.parts:
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                    yield " ".join(paragraph.split())
