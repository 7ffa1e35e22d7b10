"""How well a passage bears a sentence out: rare words shared, and hard checks that no likeness of topic can pass.

support = sum of idf(t) over the sentence's terms found in the passage / the same sum over all its terms, where
idf(t) = ln(1 + passages / max(1, passages with t)) and a term that shares only its first five letters with one of the
passage's counts RELATED. It is 0 when a hard check fails: a number, a unit of a number, a name or a quotation that the
passage lacks, or something denied on one side and affirmed on the other.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Final

from orchestrator.core.words import UNITS, is_negator, is_number, term, words_of

RELATED: Final = 0.7
SHARED_LETTERS: Final = 5
DENIED_WORDS: Final = 4  # how far a negation reaches, in words
DENIED_TERMS: Final = 2  # and in content words
QUOTED: Final = re.compile(r"\u201c([^\u201d]+)\u201d|\"([^\"]+)\"|\u00ab([^\u00bb]+)\u00bb")
QUOTE_MARKS: Final = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00ab": '"', "\u00bb": '"'}
)


def plain(text: str) -> str:
    """Return `text` with single spaces, straight quotation marks and in lower case."""
    return " ".join(text.translate(QUOTE_MARKS).split()).casefold()


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence taken apart into what a passage has to bear out."""

    terms: frozenset[str]
    names: frozenset[str]
    numbers: frozenset[str]
    units: frozenset[str]
    denied: frozenset[str]
    quotes: tuple[str, ...]
    denies: bool

    @classmethod
    def read(cls, sentence: str) -> "Claim":
        """Take a sentence, citation markers removed, apart."""
        words = words_of(sentence)
        terms = [term(word) for word in words]
        pairs = pairwise(terms)
        return cls(
            terms=frozenset(filter(None, terms)),
            names=frozenset(
                stem for word, stem in list(zip(words, terms, strict=True))[1:] if stem and word[0].isupper()
            ),
            numbers=frozenset(stem for stem in terms if is_number(stem)),
            units=frozenset(unit for number, unit in pairs if is_number(number) and unit in UNITS),
            denied=frozenset(_denied(words, terms)),
            quotes=tuple(plain(next(filter(None, groups))) for groups in QUOTED.findall(sentence)),
            denies=any(map(is_negator, words)),
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """The text of one or more passages, taken apart."""

    terms: frozenset[str]
    beginnings: frozenset[str]
    denied: frozenset[str]
    affirmed: frozenset[str]
    denies: bool
    text: str

    @classmethod
    def read(cls, text: str) -> "Evidence":
        """Take a passage, its title included, apart."""
        words = words_of(text)
        terms = [term(word) for word in words]
        denied = _denied(words, terms)
        known = frozenset(filter(None, terms))
        return cls(
            terms=known,
            beginnings=frozenset(stem[:SHARED_LETTERS] for stem in known if len(stem) >= SHARED_LETTERS),
            denied=frozenset(denied),
            affirmed=frozenset(stem for stem in known if terms.count(stem) > denied.count(stem)) if denied else known,
            denies=any(map(is_negator, words)),
            text=plain(text),
        )

    def passes(self, claim: Claim) -> bool:
        """Tell whether every hard check passes."""
        if not (claim.names <= self.terms and claim.numbers <= self.terms and claim.units <= self.terms):
            return False
        if any(quote not in self.text for quote in claim.quotes):
            return False
        if claim.denies and not self.denies:
            return False
        wrongly_denied = (claim.denied & self.affirmed) - self.denied
        wrongly_affirmed = (self.denied - self.affirmed) & (claim.terms - claim.denied)
        return not (wrongly_denied or wrongly_affirmed)


def recall(claim_terms: Iterable[str], evidence: Evidence, weigh: Callable[[str], float]) -> float:
    """Return the share, 0 to 1, of the terms' weight that the evidence holds."""
    held = whole = 0.0
    for stem in claim_terms:
        weight = weigh(stem)
        whole += weight
        if stem in evidence.terms:
            held += weight
        elif len(stem) >= SHARED_LETTERS and stem.isalpha() and stem[:SHARED_LETTERS] in evidence.beginnings:
            held += weight * RELATED
    return held / whole if whole else 0.0


def rarity(texts: Sequence[frozenset[str]]) -> Callable[[str], float]:
    """Return idf over `texts`, each given by its terms."""
    frequency = Counter(chain.from_iterable(texts))
    weights = [math.log(1 + len(texts) / max(1, count)) for count in range(len(texts) + 1)]

    def weigh(stem: str) -> float:
        return weights[frequency[stem]]

    return weigh


def terms_of(text: str) -> frozenset[str]:
    """Return the terms of a text."""
    return frozenset(filter(None, map(term, set(words_of(text)))))


def _denied(words: Sequence[str], terms: Sequence[str]) -> list[str]:
    """Return the terms that stand under a negation: the next two content words, at most four words on."""
    found: list[str] = []
    for place in [place for place, word in enumerate(words) if is_negator(word)]:
        reach = [stem for stem in terms[place + 1 : place + 1 + DENIED_WORDS] if stem]
        if words[place].casefold() == "no" and reach and is_number(reach[0]):
            continue  # "No. 1"
        found.extend(reach[:DENIED_TERMS])
    return found
