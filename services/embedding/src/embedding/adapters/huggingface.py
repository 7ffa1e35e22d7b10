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


class HuggingFaceTokenizer:
    """Cuts at the encoder's longest input and pads nothing."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ValueError, naming it, when it is not a tokenizer."""
        self._path = path
        self._max_tokens = 0
        self._tokenizer: Any = self._open(0)

    async def tokenize(self, texts: Sequence[str], max_tokens: int) -> Sequence[TokenIds]:
        """Return int64 ids per text; much text is read in a thread, which holds no lock of the interpreter."""
        if max_tokens != self._max_tokens:
            self._tokenizer, self._max_tokens = self._open(max_tokens), max_tokens
        # `self` may turn to another limit while the thread reads, so it is given the tokenizer.
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return _read(self._tokenizer, texts, max_tokens)
        return await asyncio.to_thread(_read, self._tokenizer, texts, max_tokens)

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


def _ids(encoding: Any) -> TokenIds:
    ids = array("q", encoding.ids)
    if sys.byteorder != "little":
        ids.byteswap()
    return ids.tobytes()
