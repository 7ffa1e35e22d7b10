"""Verifies an answer sentence by sentence while it is written: only citations that the passages bear out stay in it.

groundedness = sum of characters(s) * support(s) / sum of characters(s), over the answer's sentences s that say
something; support(s) is the best support among the passages s still cites, 0 when it cites none (see support.py).
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from orchestrator.core.answer import Citation, Grounded
from orchestrator.core.passage import Passage
from orchestrator.core.sentences import SentenceBuffer, sentence_spans
from orchestrator.core.support import Claim, Evidence, plain, rarity, recall, terms_of

DECLINE: Final = "The passages do not answer this question."
ENOUGH: Final = 0.5  # support from which a citation stands
PART: Final = 0.3  # share of the terms that a passage brings to a sentence that several bear out together
NUMBERS: Final = r"\d{1,3}(?:\s*,\s*\d{1,3})*"
MARKER: Final = re.compile(rf"([ \t]*)\[({NUMBERS}(?:\][ \t]*\[{NUMBERS})*)\]")  # a run of them: `[1][3]`
NUMBER: Final = re.compile(r"\d+")
SENTENCE_ENDS: Final = '.!?\u2026\u3002\uff01\uff1f"\u201d)]'
NOT_WORDS: Final = re.compile(r"[\W_]+")


passage_terms = lru_cache(maxsize=1_024)(terms_of)  # passages come again


class Grounding:
    """The verification of one answer. Feed it with `add` and `end`; what they return may go out."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Take the passages as the model was shown them; number n is the n-th."""
        self._passages = passages
        self._texts = [f"{passage.document_title}\n{passage.text}" for passage in passages]
        self._rarity: Callable[[str], float] | None = None
        self._evidence: dict[tuple[int, ...], Evidence] = {}
        self._spans: dict[int, list[tuple[int, int]]] = {}
        self._buffer = SentenceBuffer()
        self._out: list[str] = []
        self._gap = ""
        self._citations: dict[tuple[int, int, int], Citation] = {}
        self._removed = 0
        self._chars = 0
        self._supported_chars = 0.0
        self._declines: list[bool] = []

    def add(self, piece: str) -> str:
        """Take the next piece of the model's text; return the verified sentences it made whole, or nothing."""
        return "".join(map(self._verify, self._buffer.add(piece)))

    def end(self) -> str:
        """Return what was still held, verified."""
        return "".join(map(self._verify, self._buffer.end()))

    def result(self) -> Grounded:
        """Return the whole answer; its text is all that `add` and `end` returned, joined."""
        declined = bool(self._declines) and all(self._declines)
        return Grounded(
            text="".join(self._out),
            citations=tuple(sorted(self._citations.values(), key=lambda citation: citation.number)),
            groundedness=None if declined or not self._chars else self._supported_chars / self._chars,
            declined=declined,
            removed_citations=self._removed,
        )

    def _verify(self, sentence: str) -> str:
        body = MARKER.sub("", sentence).strip()
        numbers = (number for _, run in MARKER.findall(sentence) for number in _numbers(run))
        cited = list(dict.fromkeys(numbers))
        supports = self._supports(body, cited)
        self._removed += len(cited) - len(supports)
        for number in supports:
            citation = self._cite(number, body)
            self._citations[citation.number, citation.start, citation.end] = citation
        if NOT_WORDS.sub("", body):
            self._declines.append(_is_decline(body))
        if supports or terms_of(body):
            self._chars += len(body)
            self._supported_chars += len(body) * max(supports.values(), default=0.0)
        return self._emit(MARKER.sub(lambda marker: _kept(marker, supports), sentence))

    def _emit(self, sentence: str) -> str:
        """Return the sentence with the white space before it; what trails waits, so that none ends the answer."""
        content = sentence.rstrip()
        if not self._out:
            content = content.lstrip()
        if not content:
            self._gap += sentence if self._out else ""
            return ""
        text = self._gap + content
        self._gap = sentence[len(sentence.rstrip()) :]
        self._out.append(text)
        return text

    def _supports(self, body: str, cited: Sequence[int]) -> dict[int, float]:
        """Return how well each cited passage bears the sentence out, those left out that do not."""
        numbers = [number for number in cited if 1 <= number <= len(self._passages)]
        if not numbers or not body or _is_decline(body):
            return {}
        words_found = {number: 1.0 for number in numbers if _stands_in(self._passages[number - 1].text, body)}
        claim = Claim.read(body)
        if not claim.terms:
            return words_found
        alone = {number: 1.0 if number in words_found else self._support(claim, (number,)) for number in numbers}
        kept = {number: support for number, support in alone.items() if support >= ENOUGH}
        if kept or len(numbers) == 1:
            return kept
        together = self._support(claim, tuple(numbers))
        parts = {number: recall(claim.terms, self._read((number,)), self._weigh) for number in numbers}
        return {number: together for number, part in parts.items() if part >= PART} if together >= ENOUGH else {}

    def _support(self, claim: Claim, numbers: tuple[int, ...]) -> float:
        evidence = self._read(numbers)
        return recall(claim.terms, evidence, self._weigh) if evidence.passes(claim) else 0.0

    def _weigh(self, stem: str) -> float:
        if self._rarity is None:  # not needed for answers that are the passages' own words
            self._rarity = rarity([passage_terms(text) for text in self._texts])
        return self._rarity(stem)

    def _read(self, numbers: tuple[int, ...]) -> Evidence:
        if numbers not in self._evidence:
            self._evidence[numbers] = Evidence.read("\n".join(self._texts[number - 1] for number in numbers))
        return self._evidence[numbers]

    def _cite(self, number: int, body: str) -> Citation:
        passage = self._passages[number - 1]
        start = passage.text.find(body)
        end = start + len(body)
        if start < 0:
            start, end = self._best_span(number, body)
        return cite(number, passage, start, end)

    def _best_span(self, number: int, body: str) -> tuple[int, int]:
        """Return the sentence of the passage that is `body` but for white space and markers, else the likest."""
        text = self._passages[number - 1].text
        spans = self._spans.setdefault(number, sentence_spans(text))
        return likest_span(text, spans, body, self._weigh)


def likest_span(
    text: str, spans: Sequence[tuple[int, int]], wanted: str, weigh: Callable[[str], float]
) -> tuple[int, int]:
    """Return the span of `text` that holds most of what `wanted` says; of equals the shortest."""
    if not spans:
        return 0, len(text)
    same = plain(wanted)
    for start, end in spans:
        if plain(MARKER.sub("", text[start:end])) == same:
            return start, end
    terms = terms_of(wanted)

    def rank(span: tuple[int, int]) -> tuple[float, int]:
        return sum(map(weigh, terms & terms_of(text[span[0] : span[1]]))), span[0] - span[1]

    return max(spans, key=rank)


def cite(number: int, passage: Passage, start: int, end: int) -> Citation:
    """Return the citation of `passage.text[start:end]`."""
    return Citation(
        number=number,
        document_id=passage.document_id,
        document_title=passage.document_title,
        chunk_index=passage.chunk_index,
        start=passage.start + start,
        end=passage.start + end,
        quote=passage.text[start:end],
    )


def _stands_in(text: str, body: str) -> bool:
    """Tell whether `body` stands in `text` word for word from the beginning of a sentence."""
    start = text.find(body)
    before = text[: max(start, 0)].rstrip()
    return start >= 0 and (not before or before[-1] in SENTENCE_ENDS or "\n\n" in text[len(before) : start])


def _kept(marker: re.Match[str], supports: dict[int, float]) -> str:
    kept = "".join(f"[{number}]" for number in dict.fromkeys(_numbers(marker[2])) if number in supports)
    return marker[1] + kept if kept else ""


def _numbers(run: str) -> list[int]:
    return [int(number) for number in NUMBER.findall(run)]


def _is_decline(body: str) -> bool:
    return NOT_WORDS.sub(" ", body).strip().casefold() == NOT_WORDS.sub(" ", DECLINE).strip().casefold()
