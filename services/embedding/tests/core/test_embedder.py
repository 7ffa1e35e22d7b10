"""Order, cache, single flight, limits and failures of the embedder."""

import asyncio
import struct
from array import array
from collections.abc import Awaitable
from typing import Any

import pytest
from embedding.core.embedder import Embedder, Limits
from embedding.core.limits import TextLimits
from embedding.core.ports import Fingerprint
from embedding_fakes import FINGERPRINT, FakeEncoder, FakeTokenizer, ids, running, vector
from servicekit import deadline
from servicekit.errors import InvalidInput, NotFound, TimedOut, Unavailable
from servicekit.testing import eventually

CHANGED = Fingerprint("tiny", "2", "sha256:" + "1" * 64, 2, "mean", 16)


def start(work: Awaitable[Any]) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work)  # type: ignore[return-value]


async def within(timeout_s: float, embedder: Embedder, texts: list[str]) -> Any:
    with deadline.within(timeout_s):
        return await embedder.embed("", texts)


async def test_returns_vectors_and_token_counts_in_order() -> None:
    async with running(FakeEncoder()) as embedder:
        embedding = await embedder.embed("tiny", ["a b c", "d", "a b c", "e f"])
    assert embedding.vectors == b"".join(vector(text) for text in ["a b c", "d", "a b c", "e f"])
    assert [text.tokens for text in embedding.texts] == [3, 1, 3, 2]
    assert embedding.encoder == FINGERPRINT


async def test_encodes_a_text_once_while_it_is_cached() -> None:
    encoder, tokenizer = FakeEncoder(), FakeTokenizer()
    async with running(encoder, tokenizer) as embedder:
        await embedder.embed("", ["a", "b", "a"])
        again = await embedder.embed("", ["b", "c"])
    assert encoder.batches == [[ids("a"), ids("b")], [ids("c")]]
    assert tokenizer.asked == ["a", "b", "c"]
    assert again.vectors == vector("b") + vector("c")


async def test_callers_of_the_same_text_share_one_flight() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder, concurrent=4) as embedder:
        calls = [start(embedder.embed("", ["same", f"own {number}"])) for number in range(20)]
        await eventually(lambda: encoder.running == 1)
        late = start(embedder.embed("", ["same"]))
        encoder.release_all()
        results = await asyncio.gather(*calls, late)
    sent = [text for batch in encoder.batches for text in batch]
    assert sent.count(ids("same")) == 1
    assert len(sent) == 21
    assert all(result.vectors.startswith(vector("same")) for result in results)


async def test_two_that_tokenize_the_same_text_at_once_encode_it_once() -> None:
    encoder, tokenizer = FakeEncoder(), FakeTokenizer()
    tokenizer.gate.clear()
    async with running(encoder, tokenizer) as embedder:
        calls = [start(embedder.embed("", ["same"])) for _ in range(3)]
        await eventually(lambda: len(tokenizer.asked) == 3)
        tokenizer.gate.set()
        await asyncio.gather(*calls)
    assert encoder.batches == [[ids("same")]]


async def test_a_failed_text_is_not_kept() -> None:
    encoder = FakeEncoder(failure=lambda: Unavailable("broken", reason="backend_failed"))
    async with running(encoder) as embedder:
        with pytest.raises(Unavailable, match="broken"):
            await embedder.embed("", ["a"])
        encoder.failure = None
        assert (await embedder.embed("", ["a"])).vectors == vector("a")


async def test_a_bug_reaches_every_caller_and_not_the_batcher() -> None:
    encoder = FakeEncoder(failure=ZeroDivisionError)
    async with running(encoder) as embedder:
        results = await asyncio.gather(*(embedder.embed("", [text]) for text in "ab"), return_exceptions=True)
        assert [type(result) for result in results] == [ZeroDivisionError] * 2
        encoder.failure = None
        assert (await embedder.embed("", ["a"])).vectors == vector("a")


async def test_each_caller_waits_for_his_own_deadline_only() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder) as embedder:
        patient = start(within(60, embedder, ["shared", "more"]))
        hasty = start(within(0.02, embedder, ["shared"]))
        with pytest.raises(TimedOut):
            await hasty
        assert encoder.cancelled == 0
        encoder.release_all()
        assert (await patient).vectors == vector("shared") + vector("more")


async def test_an_encoder_that_changes_ends_the_cache() -> None:
    encoder = FakeEncoder()
    async with running(encoder) as embedder:
        await embedder.embed("", ["a"])
        encoder.now, encoder.scale = CHANGED, 2.0
        assert (await embedder.embed("", ["a"])).encoder == FINGERPRINT
        await embedder.refresh()
        embedding = await embedder.embed("", ["a"])
    assert embedding.encoder == CHANGED
    assert embedding.vectors == vector("a", scale=2.0)


async def test_a_response_never_mixes_fingerprints() -> None:
    encoder = FakeEncoder(held=True)
    async with running(encoder) as embedder:
        call = start(embedder.embed("", ["a"]))
        await eventually(lambda: encoder.running == 1)
        encoder.now = CHANGED
        await embedder.refresh()
        assert await embedder.encoder("") == CHANGED
        encoder.release()
        await eventually(lambda: len(encoder.batches) == 2)
        encoder.scale = 3.0
        encoder.release_all()
        embedding = await call
    assert embedding.encoder == CHANGED
    assert embedding.vectors == vector("a", scale=3.0)


async def test_an_encoder_that_cannot_be_asked_again_is_still_the_one_known() -> None:
    encoder = FakeEncoder()
    async with running(encoder) as embedder:
        await embedder.embed("", ["a"])
        encoder.now = None
        with pytest.raises(Unavailable):
            await embedder.refresh()
        assert (await embedder.embed("", ["a"])).encoder == FINGERPRINT
        assert await embedder.readiness() is None


async def test_is_ready_when_the_encoder_has_answered_and_says_why_it_is_not() -> None:
    encoder = FakeEncoder(now=None)
    async with running(encoder) as embedder:
        assert "has not been asked" in str(await embedder.readiness())
        watching = start(embedder.watch())
        await asyncio.sleep(0)
        assert "nobody there" in str(await embedder.readiness())
        with pytest.raises(Unavailable, match="nobody there"):
            await embedder.embed("", ["a"])
        encoder.now = FINGERPRINT
        await embedder.embed("", ["a"])
        assert await embedder.readiness() is None
        watching.cancel()


@pytest.mark.parametrize(
    ("texts", "field"),
    [
        ([], "texts"),
        (["a"] * 5, "texts"),
        (["a", ""], "texts[1]"),
        (["a", "b", "x" * 11], "texts[2]"),
        (["é" * 6], "texts[0]"),
        (["x" * 8] * 3, "texts"),
    ],
)
async def test_refuses_what_is_outside_the_limits(texts: list[str], field: str) -> None:
    limits = Limits(TextLimits(texts=4, text_bytes=10, request_bytes=20))
    async with running(FakeEncoder(), limits=limits) as embedder:
        with pytest.raises(InvalidInput) as caught:
            await embedder.embed("", texts)
    assert caught.value.field == field


async def test_does_not_know_another_model() -> None:
    async with running(FakeEncoder()) as embedder:
        with pytest.raises(NotFound):
            await embedder.embed("other", ["a"])
        with pytest.raises(NotFound):
            await embedder.encoder("other")


def read(text: str) -> list[int]:
    return list(array("q", ids(text)))


async def test_token_ids_have_the_vectors_of_the_text_they_are() -> None:
    encoder = FakeEncoder()
    async with running(encoder) as embedder:
        of_text = await embedder.embed("", ["a b c", "d"])
        of_tokens = await embedder.embed_tokens("tiny", [read("a b c"), read("d"), read("a b c")])
        await embedder.embed_tokens("tiny", [read("d")])
    assert of_tokens.vectors == of_text.vectors + vector("a b c")
    assert [text.tokens for text in of_tokens.texts] == [3, 1, 3]
    assert sum(len(batch) for batch in encoder.batches) == 4


async def test_a_text_and_the_ids_of_the_same_bytes_are_not_confused() -> None:
    async with running(FakeEncoder()) as embedder:
        await embedder.embed("", ["abcd"])
        tokens = array("I", b"abcd").tolist()
        assert (await embedder.embed_tokens("", [tokens])).vectors == struct.pack("<2f", sum(tokens), 1)


@pytest.mark.parametrize(
    ("tokens", "reason", "field"),
    [
        ([], "too_many_texts", "tokens"),
        ([[1]] * 5, "too_many_texts", "tokens"),
        ([[1], []], "empty_text", "tokens[1]"),
        ([[1], [2, 3, 2**40, 4]], "unknown_token", "tokens[1].ids[2]"),
        ([[1], [1] * 3], "text_too_long", "tokens[1]"),
        ([[1, 1]] * 3, "text_too_long", "tokens"),
    ],
)
async def test_refuses_token_ids_by_place(tokens: list[list[int]], reason: str, field: str) -> None:
    limits = Limits(TextLimits(texts=4, text_bytes=10 if reason == "text_too_long" else 16, request_bytes=20))
    async with running(FakeEncoder(), limits=limits) as embedder:
        with pytest.raises(InvalidInput) as caught:
            await embedder.embed_tokens("", tokens)
    assert (caught.value.reason, caught.value.field) == (reason, field)


async def test_other_dimensions_than_the_encoders_are_refused_before_anything_is_encoded() -> None:
    encoder = FakeEncoder()
    async with running(encoder) as embedder:
        assert len((await embedder.embed("", ["a"], 2)).vectors) == 8
        for embed in (embedder.embed("", ["b"], 3), embedder.embed_tokens("", [[1]], 1)):
            with pytest.raises(InvalidInput) as caught:
                await embed
            assert (caught.value.reason, caught.value.field) == ("wrong_dimensions", "dimensions")
    assert len(encoder.batches) == 1
