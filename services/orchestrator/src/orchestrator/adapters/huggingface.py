"""Counts tokens and cuts chunks with a tokenizer file."""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from orchestrator.core.document import Chunk

COUNTED_TEXTS: Final = 8_192


def load_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`, its truncation and padding off."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text and remembers the last 8,192 texts: passages come again."""

    @lru_cache(maxsize=COUNTED_TEXTS)
    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count


class TokenChunker:
    """Cuts texts where their structure does (headings, paragraphs, sentences), at most `capacity` tokens a chunk."""

    def __init__(self, tokenizer: Tokenizer, capacity: int) -> None:
        self._text = TextSplitter.from_huggingface_tokenizer(tokenizer, capacity)
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, capacity)

    async def chunk(self, text: str, media_type: str) -> tuple[Chunk, ...]:
        """Return the chunks in order, cut in a thread."""
        splitter = self._markdown if media_type == "text/markdown" else self._text
        pieces = await asyncio.to_thread(splitter.chunk_indices, text)
        return tuple(Chunk(index, piece, start, start + len(piece)) for index, (start, piece) in enumerate(pieces))
