"""Documents go in one by one, each with its own outcome."""

import asyncio
from dataclasses import replace

import pytest
from orchestrator.core.document import Progress, Rejected, Stage
from orchestrator.core.ingesting import Ingester
from orchestrator_fakes import FakeEmbedder, FakeLibrary, FakeParser, ingester, source
from servicekit.errors import Conflict, InvalidInput, PenstockError, Unavailable
from servicekit.testing import eventually


async def news_of(ingest: Ingester, *sources) -> list[Progress]:
    return [progress async for progress in ingest.ingest("kb", sources)]


def last(news: list[Progress]) -> dict[int, Progress]:
    return {progress.index: progress for progress in news}


async def test_a_document_goes_through_every_stage() -> None:
    embedder, library = FakeEmbedder(), FakeLibrary()
    news = await news_of(ingester(FakeParser(), embedder, library), source("d", b"one\ntwo", title="Title"))
    assert [progress.stage for progress in news] == [Stage.PARSED, Stage.CHUNKED, Stage.EMBEDDED, Stage.STORED]
    assert (news[-1].chunk_count, news[-1].changed, news[-1].revision) == (2, True, 1)
    assert embedder.asked == [["Title\none", "Title\ntwo"]]
    stored = library.stored["d"]
    assert [(chunk.text, chunk.start, chunk.end) for chunk in stored.chunks] == [("one", 0, 3), ("two", 4, 7)]
    assert (stored.title, len(stored.embedding.vectors)) == ("Title", 16)


async def test_without_a_title_the_id_is_it_and_is_not_embedded() -> None:
    embedder, library = FakeEmbedder(), FakeLibrary()
    await news_of(ingester(FakeParser(), embedder, library), source("d", b"one"))
    assert (library.stored["d"].title, embedder.asked) == ("d", [["one"]])


async def test_what_is_there_already_is_neither_parsed_nor_embedded() -> None:
    parser, embedder, library = FakeParser(), FakeEmbedder(), FakeLibrary()
    ingest = ingester(parser, embedder, library)
    await news_of(ingest, source("d", b"one"))
    again = await news_of(ingest, source("d", b"one"))
    assert [(each.stage, each.changed, each.chunk_count, each.revision) for each in again] == [
        (Stage.STORED, False, 1, 1)
    ]
    assert len(parser.parsed) == len(embedder.asked) == 1
    for other in (
        source("d", b"two"),
        source("d", b"two", title="T"),
        replace(source("d", b"two", title="T"), metadata={"a": 1.0}),
    ):
        assert (await news_of(ingest, other))[-1].changed


async def test_one_bad_document_does_not_stop_the_others() -> None:
    parser = FakeParser({"b": Rejected("bad", reason="encrypted_pdf")})
    sources = [
        source("a"),
        source("b"),
        source("c", media_type="image/png"),
        source("not an id"),
        source("e", b""),
        source("f", b" \n "),
        replace(source("g"), metadata={"x": None}),
        source("z"),
    ]
    outcome = last(await news_of(ingester(parser, FakeEmbedder(), FakeLibrary()), *sources))
    assert {index: progress.reason for index, progress in outcome.items()} == {
        0: "", 1: "encrypted_pdf", 2: "unsupported_media_type", 3: "invalid_id", 4: "empty", 5: "empty",
        6: "invalid_metadata", 7: "",
    }  # fmt: skip
    assert outcome[0].stage is outcome[7].stage is Stage.STORED
    assert not any(progress.retryable for progress in outcome.values())


@pytest.mark.parametrize(
    ("error", "retryable"),
    [(Unavailable("full", reason="storage_full"), True), (Conflict("other", reason="encoder_mismatch"), False)],
)
async def test_a_failure_of_others_says_whether_trying_again_helps(error: PenstockError, retryable: bool) -> None:
    (progress,) = last(
        await news_of(ingester(FakeParser(), FakeEmbedder(), FakeLibrary(error=error)), source("a"))
    ).values()
    assert (progress.stage, progress.reason, progress.retryable) == (Stage.REJECTED, error.reason, retryable)


async def test_two_versions_of_one_document_are_taken_in_order() -> None:
    library = FakeLibrary()
    await news_of(
        ingester(FakeParser(), FakeEmbedder(), library, 8), *[source("d", str(n).encode()) for n in range(20)]
    )
    assert library.stored["d"].chunks[0].text == "19"


async def test_leaving_cancels_the_rest() -> None:
    library, parser = FakeLibrary(hold=asyncio.Event()), FakeParser()
    news = ingester(parser, FakeEmbedder(), library, 2).ingest("kb", [source(f"d{n}") for n in range(10)])
    await anext(news)
    await eventually(lambda: len(parser.parsed) == 2)
    await news.aclose()
    assert library.stored == {}
    assert len(parser.parsed) == 2


async def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ExceptionGroup):
        await news_of(ingester(FakeParser(), FakeEmbedder(), FakeLibrary()), source("d", b"\xff"))


@pytest.mark.parametrize("count", [0, 1_001])
async def test_a_call_has_1_to_1000_documents(count: int) -> None:
    with pytest.raises(InvalidInput) as raised:
        await news_of(ingester(FakeParser(), FakeEmbedder(), FakeLibrary()), *[source("d")] * count)
    assert raised.value.field == "documents"


async def test_a_call_has_at_most_32_mib() -> None:
    with pytest.raises(InvalidInput) as raised:
        await news_of(ingester(FakeParser(), FakeEmbedder(), FakeLibrary()), source("d", b"x" * (32 * 2**20 + 1)))
    assert raised.value.reason == "too_large"
