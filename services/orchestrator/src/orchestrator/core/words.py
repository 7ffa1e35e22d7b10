"""Words of a text, folded so that two ways to write one word meet: case, accents, endings, numbers, units."""

import re
import unicodedata
from functools import lru_cache
from typing import Final

HAN_AND_KANA: Final = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces: a character is a word
WORD: Final = re.compile(
    rf"\d+(?:[.,]\d+)*|[{HAN_AND_KANA}]|[^\W\d_{HAN_AND_KANA}]+(?:['\u2019][^\W\d_]+)*|[%$\u20ac\u00a3\u00b0]"
)
ASCII_WORD: Final = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*|\d+(?:[.,]\d+)*|[%$]")  # the same, twice as fast
_STOP_WORDS: Final = """
    a about above after again all also am an and any are as at be became because become been before being both but
    by can could did do does doing done during each for from had has have having he her here hers him his how i if
    in into is it its itself just may me might more most much must my of off on one or other our out over own same
    she should so some such than that the their theirs them then there these they this those through to too under
    until up upon us very was we were what when where which while who whom whose why will with would you your s t st
    nd rd th re ve ll d according passage passages however therefore thus
"""
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())
_NEGATORS: Final = """
    not no never neither nor none nothing nobody without cannot hardly
"""
NEGATORS: Final = frozenset(_NEGATORS.split())
_UP_TO_TWENTY: Final = """
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty
"""
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS: Final = {word: str(number) for number, word in enumerate(_UP_TO_TWENTY.split(), start=2)} | {
    word: str(ten) for ten, word in zip(range(20, 100, 10), _TENS.split(), strict=True)
}
_UNITS: Final = """
    % percent percentage
    $ dollar dollars usd
    \u20ac euro euros eur
    \u00a3 pound pounds gbp lb lbs
    \u00b0 degree degrees
    km kilometre kilometres kilometer kilometers
    mi mile miles
    m metre metres meter meters
    cm centimetre centimetres centimeter centimeters
    mm millimetre millimetres millimeter millimeters
    ft foot feet
    inch inches
    yard yards yd
    kg kilogram kilograms
    g gram grams
    tonne tonnes ton tons
    second seconds sec
    minute minutes min
    hour hours hr hrs
    day days
    week weeks
    month months
    year years yr yrs
    decade decades
    century centuries
    thousand thousands
    million millions
    billion billions
    trillion trillions
    mb megabyte megabytes
    gb gigabyte gigabytes
    kw kilowatt kilowatts
    mw megawatt megawatts
    acre acres
    hectare hectares
    celsius centigrade
    fahrenheit
"""
UNIT_OF: Final = {word: line.split()[0] for line in _UNITS.strip().splitlines() for word in line.split()}
UNITS: Final = frozenset(UNIT_OF.values())
_ENDINGS: Final = """
    ities ity ments ment nesses ness ings ing edly ies ied ions ion ally als al ives ive ers er ors or ists ist isms
    ism ed ely ly es s e y
"""
ENDINGS: Final = sorted(
    _ENDINGS.split(),
    key=len,
    reverse=True,
)
KEPT_CHARS: Final = 3


def words_of(text: str) -> list[str]:
    """Return the words of `text` as written, in order; a percent or currency sign is a word."""
    return (ASCII_WORD if text.isascii() else WORD).findall(text)


@lru_cache(maxsize=65_536)
def term(word: str) -> str:
    """Return what stands for `word` in comparisons; empty for a stop word or a negation."""
    if is_negator(word):
        return ""
    plain = "".join(char for char in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(char))
    plain = plain.replace("\u2019", "'").removesuffix("'s")
    if plain[:1].isdigit():
        return plain.replace(",", "")
    if plain in STOP_WORDS:
        return ""
    if plain in NUMBER_WORDS:
        return NUMBER_WORDS[plain]
    return UNIT_OF.get(plain) or _stem(plain)


@lru_cache(maxsize=65_536)
def is_negator(word: str) -> bool:
    """Tell whether the word turns what follows into its opposite."""
    lowered = word.casefold().replace("\u2019", "'")
    return lowered in NEGATORS or lowered.endswith("n't")


def is_number(stem: str) -> bool:
    """Tell whether a term is a number."""
    return stem[:1].isdigit()


def _stem(word: str) -> str:
    """Return `word` without its commonest English ending; at least three characters stay."""
    if len(word) <= KEPT_CHARS or not word.isascii() or not word.isalpha():
        return word
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= KEPT_CHARS:
            word = word.removesuffix(ending)
            break
    doubled = len(word) > KEPT_CHARS + 1 and word[-1] == word[-2] and word[-1] not in "ls"
    return word[:-1] if doubled else word
