"""Cuts a query and its passages into rows of word pieces of one width."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

MOST_CHARACTERS = 20_000
"""Of a text; 256 word pieces need far fewer, and a long text costs as much as it is long."""

Tokens = npt.NDArray[np.int64]


class BadTexts(ValueError):
    """The texts of a request cannot be ranked; the message is for its caller."""


class Pieces:
    """Makes rows of at most `max_tokens` word pieces, for at most `max_passages` passages at a time."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, max_passages: int) -> None:
        """Take over `tokenizer`: its truncation and padding are set here."""
        tokenizer.enable_truncation(max_tokens)
        tokenizer.enable_padding()
        self._tokenizer = tokenizer
        self._max_passages = max_passages

    def rows(self, query: bytes, passages: Sequence[bytes]) -> tuple[Tokens, Tokens]:
        """Return ids and mask [1 + P, L], the query in row 0. Raises BadTexts."""
        if not 1 <= len(passages) <= self._max_passages:
            raise BadTexts(f"passages has {len(passages)} elements; 1 to {self._max_passages} are allowed")
        try:
            texts = [text.decode("utf-8")[:MOST_CHARACTERS] for text in (query, *passages)]
        except UnicodeDecodeError as error:
            raise BadTexts(f"a text is not UTF-8: {error.reason}") from error
        coded = self._tokenizer.encode_batch(texts)
        ids = np.array([row.ids for row in coded], np.int64)
        return ids, np.array([row.attention_mask for row in coded], np.int64)
