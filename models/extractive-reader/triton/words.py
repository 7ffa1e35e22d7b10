"""Words as the reader sees them: tokens, stems, how rare each is, and what kind of answer it could be."""

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


def word_set(text: str) -> frozenset[str]:
    """Return the words of `text`, which white space separates."""
    return frozenset(text.split())


WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\w+")
STOP_WORDS = word_set(
    "a about above after again all also am an and any are as at be became because become been before being both but "
    "by can could did do does doing done during each for from had has have having he her here hers him his how i if "
    "in into is it its itself just many may me might more most much must my name named no nor not of off on one or "
    "other our out over own same she should so some such than that the their theirs them then there these they this "
    "those through to too under until up upon us very was we were what when where which while who whom whose why will "
    "with would you your"
)
NUMBER_WORDS = word_set(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million "
    "millions billion billions trillion dozen dozens half third quarter once twice none zero one single several"
)
TIME_WORDS = word_set(
    "january february march april may june july august september october november december monday tuesday wednesday "
    "thursday friday saturday sunday century centuries decade decades spring summer autumn winter ago bc bce ad"
)
IRREGULAR = dict(
    pair.split(":")
    for pair in word_set(
        "won:win wrote:write written:write began:begin begun:begin led:lead held:hold made:make took:take "
        "taken:take gave:give given:give found:find founded:found built:build grew:grow grown:grow knew:know "
        "known:know left:leave lost:lose met:meet paid:pay ran:run said:say saw:see seen:see sent:send sold:sell "
        "spoke:speak spoken:speak spent:spend stood:stand taught:teach thought:think told:tell went:go gone:go "
        "wore:wear bought:buy brought:bring caught:catch chose:choose chosen:choose came:come died:die dead:die "
        "death:die drew:draw drawn:draw fell:fall fought:fight kept:keep lay:lie meant:mean rose:rise risen:rise "
        "struck:strike men:man women:woman children:child people:person feet:foot lives:life born:birth got:get "
        "became:become shown:show forbade:forbid "
    )
)
SUFFIXES = sorted(
    word_set(
        "ities ity ments ment nesses ness ings ing edly ies ied ions ion ally als al ives ive ers er ors or ists "
        "ist isms ism ed ely ly es s e y "
    ),
    key=lambda suffix: (-len(suffix), suffix),
)


@dataclass(frozen=True, slots=True)
class Word:
    """One token: as written, folded (case and accents removed) and stemmed."""

    text: str
    folded: str
    stem: str


def words_of(text: str) -> list[Word]:
    """Return the words of `text` in order."""
    found = []
    for match in WORD.finditer(text):
        folded = fold(match.group())
        found.append(Word(match.group(), folded, stem(folded)))
    return found


def fold(word: str) -> str:
    """Return `word` in lower case, without accents, possessive or digit grouping."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(char))
    plain = plain.replace("\u2019", "'").removesuffix("'s")
    return plain.replace(",", "") if plain[:1].isdigit() else plain


def stem(word: str) -> str:
    """Return `word` without its commonest English endings; at least three characters stay, nothing else changes."""
    if not word.isascii() or not word.isalpha() or len(word) < 4:
        return IRREGULAR.get(word, word)
    word = IRREGULAR.get(word, word)
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word.removesuffix(suffix)
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "ls":
        word = word[:-1]
    return word


@dataclass(frozen=True, slots=True)
class Rarity:
    """How rare a word is in general English, read from the rank order of a WordPiece vocabulary."""

    ranks: Mapping[str, int]

    @classmethod
    def from_tokenizer(cls, path: Path) -> "Rarity":
        """Read `tokenizer.json`; BERT's vocabulary lists whole words by falling frequency."""
        vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        whole = sorted((rank, word) for word, rank in vocabulary.items() if len(word) > 1 and word.isalnum())
        return cls({word: position for position, (_, word) in enumerate(whole)})

    def of(self, word: Word) -> float:
        """Return 0 for a stop word, else 0.2 (commonest) to 1 (not in the vocabulary, or a number of 3+ digits)."""
        if word.folded in STOP_WORDS:
            return 0.0
        rank = self.ranks.get(word.folded)
        if rank is None or (word.folded.isdigit() and len(word.folded) > 2):
            return 1.0
        return max(0.2, math.log1p(rank) / math.log1p(len(self.ranks)))


def is_number(word: Word) -> bool:
    """Tell whether the word is written in digits or names a number."""
    return word.text[0].isdigit() or word.folded in NUMBER_WORDS


def is_time(word: Word) -> bool:
    """Tell whether the word can be part of a date: a year, a month, a weekday, a century."""
    text = word.folded
    return (text[:4].isdigit() and 4 <= len(text) <= 5 and text[0] in "12") or text in TIME_WORDS


def is_name(word: Word) -> bool:
    """Tell whether the word is written like a name: a capital, and no stop word."""
    return word.text[0].isupper() and word.folded not in STOP_WORDS
