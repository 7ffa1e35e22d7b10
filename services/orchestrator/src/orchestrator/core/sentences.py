"""Cuts text into sentences, whole or as it streams in; `[1][3]` after the full stop belongs to what it follows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MARKERS: Final = r"(?:\s*\[\d{1,3}(?:\s*,\s*\d{1,3})*\])*"
STOP: Final = r"[.!?\u2026]+[\"'\u2019\u201d\u00bb)\]]*|[\u3002\uff01\uff1f][\u300d\u300f\u201d)]*"
MODEL_TEXT: Final = re.compile(rf"(?:{STOP}|(?P<line>\n)){MARKERS}")  # models do not wrap lines
DOCUMENT_TEXT: Final = re.compile(rf"(?:{STOP}|(?P<line>\n)\s*\n){MARKERS}")
HEADING: Final = re.compile(r"^#{1,6} .*$", re.MULTILINE)  # Markdown's: it is no sentence and belongs to none
MAY_STOP: Final = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\n]")
PARTIAL_MARKER: Final = re.compile(r"\[[\d,\s]*")
FIRST_WORD: Final = re.compile(r"[^\W\d_]+")
LAST_WORD: Final = re.compile(r"[^\s(\[\"'\u201c\u2018]+$")
_ABBREVIATIONS: Final = """
    mr mrs ms dr prof rev hon st sr jr gen col capt cmdr lt sgt maj adm gov sen rep pres messrs mme mlle vs v etc cf
    al approx est ca c fl b d r no nos vol pp p fig figs eq sec ch ed eds art dept univ assn bros inc ltd co corp
    plc jan feb mar apr jun jul aug sept sep oct nov dec mt ft ave blvd rd e.g i.e a.m p.m u.s u.k u.n ph.d m.d b.c
    a.d u.s.a d.c viz op ibid
"""
ABBREVIATIONS: Final = frozenset(_ABBREVIATIONS.split())
_MAY_END: Final = """
    etc inc ltd co corp plc jr sr a.m p.m u.s u.k u.n ph.d m.d b.c a.d u.s.a d.c al bros
"""
MAY_END: Final = frozenset(_MAY_END.split())
_STARTERS: Final = """
    the a an in on at it its this that these those he she they we you his her their our there as by for from with
    after before during while when where since although however but and if some many most all both each one two such
    other another
"""
STARTERS: Final = frozenset(_STARTERS.split())
LOOKAHEAD_CHARS: Final = 16
MAX_HELD_CHARS: Final = 2_000


@dataclass(slots=True)
class SentenceBuffer:
    """Holds a streamed text back until a sentence is whole; all that comes out, joined, is all that went in."""

    _held: str = ""
    _scan_from: int = 0

    def add(self, piece: str) -> list[str]:
        """Take the next piece; return the sentences it made whole, each with the white space before it."""
        decided = self._scan_from >= len(self._held)
        self._held += piece
        if decided and not MAY_STOP.search(piece) and len(self._held) <= MAX_HELD_CHARS:
            self._scan_from = len(self._held)
            return []
        return list(self._cut(final=False))

    def end(self) -> list[str]:
        """Return what is still held, in sentences."""
        whole = list(self._cut(final=True))
        rest, self._held = self._held, ""
        return [*whole, rest] if rest else whole

    def _cut(self, *, final: bool) -> Iterator[str]:
        while True:
            end, self._scan_from = _next_end(self._held, 0, self._scan_from, MODEL_TEXT, final=final)
            if end is None and len(self._held) > MAX_HELD_CHARS:
                end = max(self._held.rfind(" ", 1, MAX_HELD_CHARS), 0) or MAX_HELD_CHARS
            if end is None:
                return
            yield self._held[:end]
            self._held, self._scan_from = self._held[end:], 0


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end, in characters, of each sentence of a document's text, white space around it left out."""
    spans: list[tuple[int, int]] = []
    start = 0
    for heading in HEADING.finditer(text):
        spans += _spans(text[: heading.start()], start)
        start = heading.end()
    return [*spans, *_spans(text, start)]


def _spans(text: str, start: int) -> Iterator[tuple[int, int]]:
    while start < len(text):
        end, _ = _next_end(text, start, start, DOCUMENT_TEXT, final=True)
        stop = len(text) if end is None else end
        sentence = text[start:stop]
        lead = len(sentence) - len(sentence.lstrip())
        if sentence.strip():
            yield start + lead, start + len(sentence.rstrip())
        start = stop


def _next_end(
    text: str, start: int, scan_from: int, pattern: re.Pattern[str], *, final: bool
) -> tuple[int | None, int]:
    """Return where the sentence from `start` ends, or None and where to look again once more text is there."""
    for found in pattern.finditer(text, scan_from):
        before = text[start : found.start()]
        rest = text[found.end() : found.end() + LOOKAHEAD_CHARS * 4]
        if not final and _is_open(rest):
            return None, found.start()
        if not before.strip():
            continue
        if found["line"]:
            return (found.end() if "[" in found.group() else found.start()), 0
        if _is_boundary(before, found.group(), rest):
            return found.end(), 0
    return None, len(text)


def _is_open(rest: str) -> bool:
    """Tell whether more text could still move or undo the boundary before `rest`."""
    following = rest.lstrip()
    if not following or PARTIAL_MARKER.fullmatch(following):
        return True
    word = FIRST_WORD.match(following)
    return word is not None and word.end() == len(following) and len(following) < LOOKAHEAD_CHARS


def _is_boundary(before: str, stop: str, rest: str) -> bool:
    following = rest.lstrip()
    if not following or stop[0] in "\u3002\uff01\uff1f":
        return True
    if following[0].islower() or following[0] in ",;:).!?\u2026":
        return False
    if "[" in stop:
        return True
    if len(following) == len(rest):
        return False
    return not (stop.startswith(".") and not stop.startswith("..") and _is_short(before, following))


def _is_short(before: str, following: str) -> bool:
    """Tell whether a dot ends an abbreviation, an initial or a list number rather than a sentence."""
    match = LAST_WORD.search(before[-64:])
    word = match.group() if match else ""
    lowered = word.lower()
    if lowered in ABBREVIATIONS:
        first = FIRST_WORD.match(following)
        return not (lowered in MAY_END and first is not None and first.group().lower() in STARTERS)
    if len(word) == 1 and word.isalpha():
        return word.isupper() and word != "I"
    return word.isdigit() and before.strip() == word
