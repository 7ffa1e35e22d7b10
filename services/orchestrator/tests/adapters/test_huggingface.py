"""Chunks and token counts come from a tokenizer file."""

from pathlib import Path

import pytest
from orchestrator.adapters.huggingface import TokenChunker, load_tokenizer, token_counter
from tokenizers import Tokenizer, models, pre_tokenizers


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_tokens_are_counted_without_truncation_or_padding(file: Path) -> None:
    count = token_counter(load_tokenizer(file))
    assert (count("one"), count("word " * 50), count("")) == (1, 50, 0)


async def test_offsets_are_characters_and_no_chunk_is_too_long(file: Path) -> None:
    tokenizer = load_tokenizer(file)
    text = "\u00c9t\u00e9 \u2014 \U0001f30a one two three. " * 40 + "\n\nA new paragraph."
    chunks = await TokenChunker(tokenizer, 20).chunk(text, "text/plain")
    count = token_counter(tokenizer)
    assert len(chunks) > 5
    assert all(text[chunk.start : chunk.end] == chunk.text and count(chunk.text) <= 20 for chunk in chunks)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))


async def test_a_paragraph_that_fits_stays_whole(file: Path) -> None:
    text = "One paragraph of ten words that easily fits in one."
    assert [chunk.text for chunk in await TokenChunker(load_tokenizer(file), 20).chunk(text, "text/plain")] == [text]


async def test_markdown_is_cut_at_headings(file: Path) -> None:
    text = "# A\n\n" + "word " * 8 + "\n\n# B\n\n" + "word " * 8
    chunks = await TokenChunker(load_tokenizer(file), 12).chunk(text, "text/markdown")
    assert [chunk.text[:3] for chunk in chunks] == ["# A", "# B"]
