"""Cuts text into sentences without splitting at abbreviations, initials, decimals or list numbers."""

import re
from collections.abc import Iterator

from words import word_set

ABBREVIATIONS = word_set(
    "mr mrs ms dr prof rev hon st sr jr gen col capt cmdr lt sgt maj adm gov sen rep pres supt messrs mme mlle vs v "
    "etc cf al approx est ca c circa fl b d r no nos vol pp p fig figs eq sec ch ed eds art dept univ assn bros inc "
    "ltd co corp plc jan feb mar apr jun jul aug sept sep oct nov dec mt ft ave blvd rd e.g i.e a.m p.m u.s u.k u.n "
    "ph.d m.d b.c a.d u.s.a d.c n.b viz op ibid"
)
# These may also end a sentence: they do when the next word is one that usually starts a sentence.
MAY_END = word_set("etc inc ltd co corp plc jr sr a.m p.m u.s u.k u.n ph.d m.d b.c a.d u.s.a d.c al bros")
STARTERS = word_set(
    "the a an in on at it its this that these those he she they we you his her their our there as by for from with "
    "after before during while when where since although however but and if some many most all both each one two such "
    "other another according under over then thus today"
)
STOPS = ".!?\u2026"
WIDE_STOPS = "\u3002\uff01\uff1f"  # Chinese and Japanese: no space need follow
OTHER_STOPS = "\u0964\u061f\u06d4"  # Devanagari, Arabic, Urdu
CLOSERS = "\"'\u2019\u201d)]"
END = re.compile(
    rf"(?<![{STOPS}])[{STOPS}{OTHER_STOPS}]+(?:[{re.escape(CLOSERS)}]|\[\d{{1,3}}\])*(?=\s|$)"
    rf"|[{WIDE_STOPS}]+[{re.escape(CLOSERS)}]*"
)
HEADING = re.compile(r"\s*#{1,6}\s")  # Markdown's; it says what follows is about, and answers nothing
LIST_ITEM = re.compile(r"\s*(?:[-*\u2022#|]|\d{1,3}[.)]\s)")


def split_sentences(text: str, max_chars: int = 1200) -> list[str]:
    """Return the sentences of `text`, each with a letter or digit; one over `max_chars` is cut at a space."""
    found: list[str] = []
    for block in _blocks(text):
        for sentence in _sentences(block):
            for piece in _pieces(sentence.strip(), max_chars):
                if any(char.isalnum() for char in piece):
                    found.append(piece)
                elif found and len(piece) <= 4:
                    found[-1] = f"{found[-1]} {piece}"
    return found


def _blocks(text: str) -> Iterator[str]:
    """Yield the paragraphs and list items, white space made single; a blank line, a bullet or a heading ends one."""
    lines: list[str] = []
    for line in text.splitlines():
        if not line.strip() or LIST_ITEM.match(line):
            yield " ".join(lines)
            lines = []
        if HEADING.match(line):
            continue
        lines.append(" ".join(line.split()))
    yield " ".join(lines)


def _sentences(block: str) -> Iterator[str]:
    start = 0
    for end in END.finditer(block):
        if _is_boundary(block, start, end):
            yield block[start : end.end()]
            start = end.end()
    yield block[start:]


def _is_boundary(block: str, start: int, end: re.Match[str]) -> bool:
    following = block[end.end() : end.end() + 40].lstrip()
    if not following:
        return True
    if following[0].islower() or following[0] in ",;:)]":
        return False
    if not end.group().startswith(".") or end.group().startswith(".."):
        return True
    return not _is_short_form(block[start : end.start()], following)


def _is_short_form(before: str, following: str) -> bool:
    """Tell whether the dot belongs to an abbreviation, an initial or a list number instead of ending the sentence."""
    word = (before[-40:].split() or [""])[-1].lstrip("([\"'\u201c\u2018")
    lowered = word.lower()
    if lowered in ABBREVIATIONS:
        first = re.match(r"\w+", following)
        return not (lowered in MAY_END and first is not None and first.group().lower() in STARTERS)
    if len(word) == 1 and word.isalpha():
        return word.isupper() and word != "I"
    return word.isdigit() and before.strip() == word


def _pieces(sentence: str, max_chars: int) -> Iterator[str]:
    while len(sentence) > max_chars:
        cut = sentence.rfind(" ", 1, max_chars)
        cut = cut if cut > 0 else max_chars
        yield sentence[:cut]
        sentence = sentence[cut:].lstrip()
    if sentence:
        yield sentence
