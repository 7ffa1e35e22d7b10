"""The store's promises, on fakes."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servicekit.errors import InvalidInput, NotFound, Unavailable
from servicekit.testing import eventually
from vector_search.core.filters import Comparison, Condition
from vector_search.core.knowledge import EncoderMismatch
from vector_search.core.searcher import Mode
from vector_search_fakes import (
    ENCODER,
    OTHER_ENCODER,
    FakeDenseIndex,
    FakeLog,
    Running,
    entry_of,
    question_of,
    running,
)


@pytest.fixture
async def on_fakes() -> AsyncIterator[Running]:
    async with running(FakeLog(), FakeDenseIndex()) as made:
        yield made


async def test_what_was_stored_is_found_at_once(on_fakes: Running) -> None:
    document, revision, changed = await on_fakes.store.put("acme", "kb", entry_of("d", "red fox", "blue hen"), ENCODER)
    assert (document.id, document.chunk_count, changed) == ("d", 2, True)
    found = await on_fakes.store.search("acme", "kb", question_of("red fox", min_revision=revision))
    assert found.revision == revision
    assert found.hits[0].chunk.text == "red fox"
    assert found.hits[0].cosine == pytest.approx(1.0, abs=1e-5)


async def test_the_same_document_again_changes_nothing(on_fakes: Running) -> None:
    first = await on_fakes.store.put("acme", "kb", entry_of("d", "red", metadata={"a": 1.0}), ENCODER)
    again = await on_fakes.store.put("acme", "kb", entry_of("d", "red", metadata={"a": 1.0}), ENCODER)
    assert (again[1], again[2]) == (first[1], False)
    other = await on_fakes.store.put("acme", "kb", entry_of("d", "red", metadata={"a": True}), ENCODER)
    assert (other[1], other[2]) == (first[1] + 1, True)


async def test_a_new_version_replaces_the_old_as_a_whole(on_fakes: Running) -> None:
    await on_fakes.store.put("acme", "kb", entry_of("d", "red fox", "blue hen"), ENCODER)
    await on_fakes.store.put("acme", "kb", entry_of("d", "green pen"), ENCODER)
    found = await on_fakes.store.search("acme", "kb", question_of("blue hen"))
    assert [hit.chunk.text for hit in found.hits] == ["green pen"]
    base = on_fakes.store.get("acme", "kb")
    assert (base.document_count, base.chunk_count) == (1, 1)
    assert len(on_fakes.index.rows(base.number)) == 1


async def test_another_encoder_is_told_what_to_do(on_fakes: Running) -> None:
    await on_fakes.store.create("acme", "kb", ENCODER)
    for attempt in (
        on_fakes.store.create("acme", "kb", OTHER_ENCODER),
        on_fakes.store.put("acme", "kb", entry_of("d", "red"), OTHER_ENCODER),
        on_fakes.store.search("acme", "kb", question_of("red", encoder=OTHER_ENCODER)),
    ):
        with pytest.raises(EncoderMismatch, match="into a new knowledge base") as raised:
            await attempt
        assert raised.value.reason == "encoder_mismatch"


async def test_a_name_used_again_goes_on_counting_revisions(on_fakes: Running) -> None:
    _, revision, _ = await on_fakes.store.put("acme", "kb", entry_of("d", "red"), ENCODER)
    assert await on_fakes.store.delete("acme", "kb") == 1
    with pytest.raises(NotFound):
        on_fakes.store.get("acme", "kb")
    assert (await on_fakes.store.create("acme", "kb", OTHER_ENCODER)).revision > revision


@pytest.mark.parametrize("mode", Mode)
async def test_an_empty_base_finds_nothing(on_fakes: Running, mode: Mode) -> None:
    await on_fakes.store.create("acme", "kb", ENCODER)
    assert not (await on_fakes.store.search("acme", "kb", question_of("red", mode=mode))).hits


async def test_one_leg_is_enough(on_fakes: Running) -> None:
    await on_fakes.store.put("acme", "kb", entry_of("d", "red fox"), ENCODER)
    dense = await on_fakes.store.search("acme", "kb", question_of("unknown words"))
    assert [hit.chunk.text for hit in dense.hits] == ["red fox"]
    lexical = await on_fakes.store.search("acme", "kb", question_of("fox", mode=Mode.LEXICAL))
    assert [hit.cosine for hit in lexical.hits] == [None]


async def test_filters_choose_documents(on_fakes: Running) -> None:
    for year in range(9):
        await on_fakes.store.put("acme", "kb", entry_of(f"d{year}", "red fox", metadata={"year": float(year)}), ENCODER)
    await on_fakes.store.put("acme", "kb", entry_of("undated", "red fox"), ENCODER)
    for comparison, value, expected in (
        (Comparison.GREATER, 6.0, {"d7", "d8"}),
        (Comparison.LESS, 7.0, {f"d{year}" for year in range(7)}),
        (Comparison.EQUAL, "6", set()),
    ):
        question = question_of("red fox", filters=(Condition("year", comparison, (value,)),), top_k=20)
        found = await on_fakes.store.search("acme", "kb", question)
        assert {hit.document.id for hit in found.hits} == expected


async def test_bad_questions_are_refused(on_fakes: Running) -> None:
    await on_fakes.store.create("acme", "kb", ENCODER)
    for changes in (
        {"top_k": 101},
        {"vector": np.ones(3, np.float32)},
        {"vector": np.full(8, np.nan, np.float32)},
        {"min_revision": 99},
        {"mode": Mode.LEXICAL, "text": " "},
    ):
        with pytest.raises(InvalidInput):
            await on_fakes.store.search("acme", "kb", question_of("red", **changes))


async def test_concurrent_changes_share_commits_and_none_is_lost(on_fakes: Running) -> None:
    await on_fakes.store.create("acme", "kb", ENCODER)
    answers = await asyncio.gather(
        *(on_fakes.store.put("acme", "kb", entry_of(f"d{n % 100}", f"text {n}"), ENCODER) for n in range(200))
    )
    assert sorted(revision for _, revision, _ in answers) == list(range(2, 202))
    base = on_fakes.store.get("acme", "kb")
    assert (base.document_count, base.revision) == (100, 201)
    assert len(on_fakes.index.rows(base.number)) == 100
    assert isinstance(on_fakes.log, FakeLog)
    assert on_fakes.log.commits < 100


async def test_a_full_disk_stores_nothing_and_the_service_lives(on_fakes: Running) -> None:
    assert isinstance(on_fakes.log, FakeLog)
    await on_fakes.store.put("acme", "kb", entry_of("d", "red"), ENCODER)
    on_fakes.log.full = True
    with pytest.raises(Unavailable) as raised:
        await on_fakes.store.put("acme", "kb", entry_of("e", "blue"), ENCODER)
    assert raised.value.reason == "storage_full"
    on_fakes.log.full = False
    assert on_fakes.store.get("acme", "kb").document_count == 1
    assert (await on_fakes.store.put("acme", "kb", entry_of("e", "blue"), ENCODER))[2]


async def test_an_index_that_fails_catches_up_with_the_log(on_fakes: Running) -> None:
    assert isinstance(on_fakes.index, FakeDenseIndex)
    await on_fakes.store.create("acme", "kb", ENCODER)
    on_fakes.index.broken = True
    with pytest.raises(Unavailable) as raised:
        await on_fakes.store.put("acme", "kb", entry_of("d", "red"), ENCODER)
    assert raised.value.reason == "index_failed"
    assert await on_fakes.store.readiness() is not None
    on_fakes.index.broken = False

    async def ready() -> bool:
        return await on_fakes.store.readiness() is None

    await eventually(ready)
    assert [hit.document.id for hit in (await on_fakes.store.search("acme", "kb", question_of("red"))).hits] == ["d"]
    assert not (await on_fakes.store.put("acme", "kb", entry_of("d", "red"), ENCODER))[2]


TENANTS = st.sampled_from(["acme", "globex", '" or tenant != "', "acmé\n", "x" * 2_000, "1=1; --", "\\"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TENANTS, st.integers(0, 5)), max_size=12), TENANTS, st.text(max_size=20))
def test_no_search_crosses_a_tenant(stored: list[tuple[str, int]], asker: str, value: str) -> None:
    async def scenario() -> None:
        async with running(FakeLog(), FakeDenseIndex()) as made:
            await made.store.create(asker, "kb", ENCODER)
            for tenant, number in stored:
                await made.store.put(tenant, "kb", entry_of(f"d{number}", "red fox", title=tenant), ENCODER)
            for filters in ((), (Condition("f", Comparison.NOT_EQUAL, (value,)),)):
                question = question_of("red fox", top_k=100, filters=filters)
                found = await made.store.search(asker, "kb", question)
                assert all(hit.document.title == asker for hit in found.hits)
            assert {hit.document.id for hit in found.hits} == set() if filters else True

    asyncio.run(scenario())
