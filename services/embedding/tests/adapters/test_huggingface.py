"""The tokenizer adapter against the real library, with a small vocabulary."""

import asyncio
from array import array
from pathlib import Path

import pytest
from embedding.adapters.huggingface import CHARACTERS_PER_TOKEN, INLINE_CHARACTERS, HuggingFaceTokenizer
from embedding.core.ports import TokenIds
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh"), "word", "end"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordPiece({word: id_ for id_, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=64)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def words(ids: TokenIds) -> list[str]:
    return [VOCABULARY[id_] for id_ in array("q", ids)]


async def test_reads_word_pieces_without_padding_even_if_the_file_asks_for_it(path: Path) -> None:
    read = await HuggingFaceTokenizer(path).tokenize(["Word abc", "end ?"], 16)
    assert [words(ids) for ids in read] == [
        ["[CLS]", "word", "a", "##b", "##c", "[SEP]"],
        ["[CLS]", "end", "[UNK]", "[SEP]"],
    ]


async def test_cuts_at_the_limit_and_follows_it_when_it_changes(path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(path)
    for limit in (4, 6, 5):
        (ids,) = await tokenizer.tokenize(["word " * 50], limit)
        assert words(ids) == ["[CLS]", *["word"] * (limit - 2), "[SEP]"]


@pytest.mark.parametrize(
    "text",
    [
        "word " * 20_000,
        "word abc " + " " * 50_000 + "end " * 50,
        "a" * 90_000 + " end",
        "漢字" * 40_000,
        "word\n" * 30_000,
        " " * 70_000,
    ],
)
async def test_reading_only_the_start_of_a_long_text_changes_nothing(path: Path, text: str) -> None:
    limit = 32
    assert len(text) > limit * CHARACTERS_PER_TOKEN > INLINE_CHARACTERS - 1
    whole = Tokenizer.from_file(str(path))
    whole.no_padding()
    whole.enable_truncation(limit)
    (ids,) = await HuggingFaceTokenizer(path).tokenize([text], limit)
    assert list(array("q", ids)) == whole.encode(text).ids


async def test_much_text_leaves_the_event_loop_free(path: Path) -> None:
    reading = asyncio.ensure_future(HuggingFaceTokenizer(path).tokenize(["漢字" * 200_000] * 2, 16))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    assert len(await reading) == 2


def test_names_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.json"):
        HuggingFaceTokenizer(tmp_path / "nothing.json")


@pytest.mark.parametrize("limit", [3, 4, 6, 16])
@pytest.mark.parametrize("text", ["Word abc", "word " * 50, "?"])
async def test_framed_ids_read_as_their_text_does(path: Path, text: str, limit: int) -> None:
    tokenizer = HuggingFaceTokenizer(path)
    bare = Tokenizer.from_file(str(path))
    bare.no_padding()
    ids = bare.encode(text, add_special_tokens=False).ids
    assert tokenizer.frame([ids], limit) == await tokenizer.tokenize([text], limit)
    assert tokenizer.vocabulary == len(VOCABULARY)


async def test_a_tokenizer_without_special_tokens_frames_with_none(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    framed = HuggingFaceTokenizer(tmp_path / "tokenizer.json")
    assert list(array("q", framed.frame([[2, 3, 2]], 2)[0])) == [2, 3]
    assert framed.vocabulary == 4
