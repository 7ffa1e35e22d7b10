"""Bounds the tokens that a text can come to before anything has counted them: what is reserved has to be enough."""

from string import ascii_lowercase
from typing import Final

PLAIN: Final = f"{ascii_lowercase} ".encode()
PLAIN_BYTES_PER_TOKEN: Final = 3
LEADING_BLANK: Final = 1
"""Tokenizers made with SentencePiece begin every text with it."""


def most_tokens(text: bytes) -> int:
    """Return how many tokens a UTF-8 text has at most: one a byte; of small Latin letters and blanks, one for three.

    Measured on pieces of 400 characters with cl100k, o200k, DeepSeek V3, Claude 2, Mistral v1, v7 and Tekken, and
    MiniLM's WordPiece: no piece of Wikipedia in English, of source code, JSON or CSV has more, nor of the texts of user
    interfaces in 36 languages, but for Armenian (4% more) and Finnish (2% more). Random strings have up to 20% more
    (base64, hex), with the oldest tokenizers. Newer ones make half as many of English, a quarter of other scripts.
    Takes half a nanosecond a byte.
    """
    dense = len(text.translate(None, PLAIN))
    plain = len(text) - dense
    return dense + -(-plain // PLAIN_BYTES_PER_TOKEN) + LEADING_BLANK
