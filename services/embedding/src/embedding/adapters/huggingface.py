"""Tokenizes with a Hugging Face `tokenizer.json`."""

import asyncio
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from embedding.core.ports import TokenIds

INLINE_CHARACTERS: Final = 2048
"""About 1 ms of tokenizing; more of it would hold up the event loop, and a thread adds 0.1 ms (both measured)."""
CHARACTERS_PER_TOKEN: Final = 64
"""Far more characters than a token has; text beyond so many is read only where it can matter."""
PROBE: Final = "a"
"""Any text does: what is special about its encoding is what frames every text."""


class HuggingFaceTokenizer:
    """Cuts at the encoder's longest input and pads nothing."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ValueError, naming it, when it is not a tokenizer."""
        self._path = path
        self._max_tokens = 0
        self._tokenizer: Any = self._open(0)
        self.vocabulary: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._before, self._after = _special_tokens(self._tokenizer)

    async def tokenize(self, texts: Sequence[str], max_tokens: int) -> Sequence[TokenIds]:
        """Return int64 ids per text; much text is read in a thread, which holds no lock of the interpreter."""
        if max_tokens != self._max_tokens:
            self._tokenizer, self._max_tokens = self._open(max_tokens), max_tokens
        # `self` may turn to another limit while the thread reads, so it is given the tokenizer.
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return _read(self._tokenizer, texts, max_tokens)
        return await asyncio.to_thread(_read, self._tokenizer, texts, max_tokens)

    def frame(self, tokens: Sequence[Sequence[int]], max_tokens: int) -> Sequence[TokenIds]:
        """Return int64 ids per text, with the special tokens that `tokenize` adds; ids are not checked."""
        kept = max(0, max_tokens - len(self._before) - len(self._after))
        return [_packed([*self._before, *ids[:kept], *self._after]) for ids in tokens]

    def _open(self, max_tokens: int) -> Any:
        try:
            tokenizer = Tokenizer.from_file(str(self._path))
        except Exception as error:  # the binding raises bare Exception
            raise ValueError(f"{self._path} is not a tokenizer: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if max_tokens:
            tokenizer.enable_truncation(max_tokens)
        return tokenizer


def _read(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[TokenIds]:
    longest = max_tokens * CHARACTERS_PER_TOKEN
    starts = [text if len(text) <= longest else _start(text, longest) for text in texts]
    read = [_ids(encoding) for encoding in tokenizer.encode_batch_fast(starts)]
    for index, (text, start) in enumerate(zip(texts, starts, strict=True)):
        if len(start) < len(text) and len(read[index]) < max_tokens * array("q").itemsize:
            read[index] = _ids(tokenizer.encode(text))
    return read


def _start(text: str, characters: int) -> str:
    """Return the whole words among the first characters: where they fill the input, the rest could not change it."""
    end = text.rfind(" ", 0, characters)
    return text[:end] if end > 0 else text


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after every text."""
    marked = tokenizer.encode(PROBE)
    special = marked.special_tokens_mask
    before = special.index(0) if 0 in special else len(special)
    after = special[::-1].index(0) if 0 in special else 0
    return marked.ids[:before], marked.ids[len(special) - after :]


def _ids(encoding: Any) -> TokenIds:
    return _packed(encoding.ids)


def _packed(numbers: Sequence[int]) -> TokenIds:
    ids = array("q", numbers)
    if sys.byteorder != "little":
        ids.byteswap()
    return ids.tobytes()
