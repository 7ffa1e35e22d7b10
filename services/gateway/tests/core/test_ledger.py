"""The ledger over fakes: one row per attempt, whatever fails, and what was spent to the nano-dollar."""

import asyncio
from datetime import UTC, datetime

import pytest
from gateway.core.ledger import BATCH, HOUR_S, Ledger
from gateway.core.ledger_ports import LedgerFull
from gateway.core.retention import Retention
from gateway_ledger_fakes import NOON, FakeJournal, FakeLedgerStore, FakeOrphan, attempt, outcome, settled
from servicekit.errors import Conflict, Unavailable
from servicekit.testing import eventually


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Ledger, FakeJournal, FakeLedgerStore, Clock]:
    journal, store, clock = FakeJournal(), FakeLedgerStore(), Clock()
    return Ledger(journal, store, clock), journal, store, clock


def at(moment_s: float) -> datetime:
    return datetime.fromtimestamp(moment_s, UTC)


async def test_an_attempt_becomes_a_row_with_the_moment_it_ended() -> None:
    ledger, journal, store, clock = made()
    ledger.begin(attempt("a"))
    clock.now += 2.5
    ledger.end("a", outcome())
    await ledger.flush()
    assert store.rows_by_id == {"a": settled("a", NOON + 2.5)}
    assert not journal.ended


async def test_the_first_end_counts() -> None:
    ledger, _, store, _ = made()
    ledger.begin(attempt("a"))
    ledger.end("a", outcome(cost_nanos=7))
    ledger.end("a", outcome(cost_nanos=8))
    ledger.end("never begun", outcome())
    await ledger.flush()
    ledger.end("a", outcome(cost_nanos=9))
    await ledger.flush()
    assert [row.outcome.cost_nanos for row in store.rows_by_id.values()] == [7]
    assert await ledger.spent("tenant", "acme", at(NOON)) == 7


async def test_an_attempt_begins_once() -> None:
    ledger, _, _, _ = made()
    ledger.begin(attempt("a"))
    with pytest.raises(Conflict):
        ledger.begin(attempt("a"))


@pytest.mark.parametrize("moved", [False, True])
async def test_spent_counts_what_is_not_stored_yet(moved: bool) -> None:
    ledger, _, _, _ = made()
    for number, (project, key) in enumerate([("p", "k1"), ("p", "k2"), ("q", "k1")]):
        ledger.begin(attempt(str(number), project=project, key_id=key))
        ledger.end(str(number), outcome(cost_nanos=10**number))
    ledger.begin(attempt("before", started_at=NOON - HOUR_S))
    ledger.end("before", outcome(cost_nanos=5000))
    ledger.begin(attempt("open"))
    if moved:
        await ledger.flush()
    assert await ledger.spent("tenant", "acme", at(NOON)) == 111
    assert await ledger.spent("tenant", "acme", at(NOON - HOUR_S)) == 5111
    assert await ledger.spent("project", "acme/p", at(NOON)) == 11
    assert await ledger.spent("key", "k1", at(NOON)) == 101
    assert await ledger.spent("tenant", "other", at(0)) == 0


async def test_spent_is_exact_while_rows_move() -> None:
    ledger, _, store, _ = made()
    seen: set[int] = set()
    for number in range(3 * BATCH):
        ledger.begin(attempt(str(number)))
        ledger.end(str(number), outcome(cost_nanos=1))

    async def ask() -> None:
        while len(store.rows_by_id) < 3 * BATCH:
            seen.add(await ledger.spent("tenant", "acme", at(NOON)))
            await asyncio.sleep(0)

    await asyncio.gather(ledger.flush(), ask())
    assert seen == {3 * BATCH}


async def test_a_store_that_is_down_loses_nothing() -> None:
    ledger, journal, store, _ = made()
    store.down = True
    for number in range(BATCH + 10):
        ledger.begin(attempt(str(number)))
        ledger.end(str(number), outcome(cost_nanos=1))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await ledger.flush()
    assert ledger.usable()
    assert await ledger.check() is None
    store.down = False
    await ledger.flush()
    assert len(store.rows_by_id) == BATCH + 10
    assert await ledger.spent("tenant", "acme", at(NOON)) == BATCH + 10
    assert not journal.ended


async def test_a_flush_that_is_cancelled_loses_nothing() -> None:
    for steps in range(12):
        ledger, _, store, _ = made()
        for number in range(2 * BATCH):
            ledger.begin(attempt(str(number)))
            ledger.end(str(number), outcome())
        flushing = asyncio.create_task(ledger.flush())
        for _ in range(steps):
            await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        await ledger.flush()
        assert len(store.rows_by_id) == 2 * BATCH


async def test_a_full_journal_refuses_begins_and_says_so() -> None:
    ledger, journal, _, _ = made()
    ledger.begin(attempt("a"))
    journal.full = True
    assert not ledger.usable()
    assert await ledger.check() == "full"
    with pytest.raises(LedgerFull) as raised:
        ledger.begin(attempt("b"))
    assert raised.value.reason == "ledger_full"
    ledger.end("a", outcome())
    journal.full = False
    ledger.begin(attempt("b"))


async def test_what_a_dead_process_left_is_stored_and_its_open_attempts_cost_what_was_reserved() -> None:
    ledger, journal, store, clock = made()
    orphans = [FakeOrphan([settled("done")], [attempt("open", reserved_nanos=77)]), FakeOrphan([], [attempt("more")])]
    journal.orphans.extend(orphans)
    clock.now += 5
    await ledger.adopt()
    assert all(orphan.removed for orphan in orphans)
    assert store.rows_by_id["done"].outcome.status == "ok"
    lost = store.rows_by_id["open"]
    assert (lost.outcome.status, lost.outcome.reason, lost.outcome.cost_nanos) == ("abandoned", "process_died", 77)
    assert lost.ended_at == NOON + 5
    assert set(store.rows_by_id) == {"done", "open", "more"}


async def test_an_orphan_stays_while_the_store_is_down() -> None:
    ledger, journal, store, _ = made()
    journal.orphans.append(FakeOrphan([], [attempt("open")]))
    store.down = True
    with pytest.raises(Unavailable):
        await ledger.adopt()
    assert not journal.orphans[0].removed


async def test_a_row_that_the_store_refuses_is_put_aside_and_holds_up_no_other() -> None:
    ledger, journal, store, _ = made()
    bad = "x" * 65
    for id_ in ("a", bad, "b", "c"):
        ledger.begin(attempt(id_))
        ledger.end(id_, outcome())
    await ledger.flush()
    assert set(store.rows_by_id) == {"a", "b", "c"}
    assert [row.attempt.id for row in journal.refused] == [bad]


async def test_what_nobody_ends_is_abandoned() -> None:
    ledger, _, store, clock = made()
    ledger.begin(attempt("forgotten", reserved_nanos=5))
    ledger.begin(attempt("young", started_at=NOON + 3000))
    clock.now += 3700
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ledger.run())
        await eventually(lambda: "forgotten" in store.rows_by_id)
        running.cancel()
    assert store.rows_by_id["forgotten"].outcome.reason == "never_ended"
    ledger.end("forgotten", outcome(cost_nanos=10_000))
    ledger.end("young", outcome())
    await ledger.flush()
    assert store.rows_by_id["forgotten"].outcome.cost_nanos == 5
    assert store.rows_by_id["young"].outcome.status == "ok"


async def test_running_it_moves_rows_and_syncs_the_journal_while_the_store_is_down() -> None:
    ledger, journal, store, _ = made()
    store.down = True
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ledger.run())
        ledger.begin(attempt("a"))
        ledger.end("a", outcome())
        await eventually(lambda: journal.synced > 0)
        store.down = False
        await eventually(lambda: "a" in store.rows_by_id)
        running.cancel()


async def test_closing_does_not_wait_for_a_store_that_is_down() -> None:
    ledger, _, store, _ = made()
    ledger.begin(attempt("a"))
    ledger.end("a", outcome())
    store.down = True
    await ledger.close(0.1)
    store.down = False
    await ledger.close(0.1)
    assert "a" in store.rows_by_id


async def test_retention_deletes_old_rows_in_batches_and_keeps_what_was_spent() -> None:
    store = FakeLedgerStore()
    await store.add([settled(str(day), started_at=NOON - day * 86_400.0) for day in range(500)])
    assert await Retention(store, keep_days=30, clock=lambda: NOON + 1, pause_s=0).prune() == 470
    assert len(store.rows_by_id) == 30
    assert await store.spent("tenant", "acme", 0) == 500 * 100
