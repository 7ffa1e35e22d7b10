"""What a restart brings back."""

from vector_search_fakes import ENCODER, FakeDenseIndex, FakeLog, entry_of, question_of, running


async def test_the_index_is_made_to_match_the_log() -> None:
    log, index = FakeLog(), FakeDenseIndex()
    async with running(log, index) as made:
        for number in range(5):
            await made.store.put("acme", "kb", entry_of(f"d{number}", f"text {number}"), ENCODER)
        before = made.store.get("acme", "kb")
    lost, kept = sorted(index.rows(before.number))[:2], sorted(index.rows(before.number))[2:]
    index.remove(before.number, lost)
    index.add(before.number, [(999, 999)], entry_of("stray", "text 0").vectors)
    index.create(77, 8)
    async with running(log, index) as made:
        assert made.store.get("acme", "kb") == before
        assert index.rows(before.number) == {*lost, *kept}
        assert index.bases() == {before.number}
        found = await made.store.search("acme", "kb", question_of("text 0"))
        assert found.hits[0].document.id == "d0"


async def test_numbers_are_not_given_out_again() -> None:
    log = FakeLog()
    async with running(log, FakeDenseIndex()) as made:
        await made.store.put("acme", "kb", entry_of("d", "red"), ENCODER)
        await made.store.drop("acme", "kb", "d")
    async with running(log, FakeDenseIndex()) as made:
        document, _, _ = await made.store.put("acme", "kb", entry_of("d", "red"), ENCODER)
        assert document.number == 2
