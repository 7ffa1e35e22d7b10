"""The journal on a real disk: segments, full disks, torn and corrupt lines, dead processes."""

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import pytest
from gateway.adapters.journal import FileJournal
from gateway.core.attempts import Settled
from gateway.core.ledger_ports import LedgerFull
from gateway_ledger_fakes import NOON, attempt, outcome, settled


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.journal"))


def abandon(journal: FileJournal) -> None:
    """Let the journal go as a process does that is killed: the kernel closes its files, and nothing else happens."""
    os.close(journal._file)
    os.close(journal._lock)


def read_all(journal: FileJournal, root: Path) -> tuple[list[Settled], list[str]]:
    with journal.orphan() as orphan:
        assert orphan is not None
        rows = [row for _ in range(1000) for row in orphan.read(7)]
        open_ids = [found.id for found in orphan.unfinished()]
        orphan.remove()
    return rows, open_ids


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        journal.begin(attempt("a", alias='odd "name"\n\0 ü', retry_count=2))
        journal.begin(attempt("b"))
        journal.end("b", outcome(status="failed", reason="backend_failed", queue_ms=1.5), NOON + 3)
        assert journal.read(10) == [settled("b", NOON + 3, result=outcome(
            status="failed", reason="backend_failed", queue_ms=1.5))]  # fmt: skip
        assert journal.read(10) == []
        journal.end("a", outcome(), NOON + 4)
        assert journal.read(10) == [settled("a", NOON + 4, alias='odd "name"\n\0 ü', retry_count=2)]


def test_an_empty_journal_leaves_nothing_behind(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        journal.begin(attempt("a"))
        journal.end("a", outcome(), NOON)
        journal.read(10)
        journal.forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [0, 1])
def test_what_is_not_stored_stays_on_closing(tmp_path: Path, read: int) -> None:
    with FileJournal(tmp_path) as journal:
        for id_ in ("a", "b"):
            journal.begin(attempt(id_))
            journal.end(id_, outcome(), NOON)
        for _ in range(read):
            journal.read(1)
    with FileJournal(tmp_path) as later:
        rows, _ = read_all(later, tmp_path)
    assert [row.attempt.id for row in rows] == ["a", "b"]


def test_a_living_process_is_no_orphan_and_a_dead_one_is_taken_over_once(tmp_path: Path) -> None:
    dead = FileJournal(tmp_path)
    dead.begin(attempt("done"))
    dead.end("done", outcome(), NOON + 1)
    dead.begin(attempt("open"))
    with FileJournal(tmp_path) as one, FileJournal(tmp_path) as other:
        with one.orphan() as orphan:
            assert orphan is None
        abandon(dead)
        with one.orphan() as orphan:
            assert orphan is not None
            with other.orphan() as nobody:
                assert nobody is None
        assert read_all(other, tmp_path) == ([settled("done", NOON + 1)], ["open"])
        with one.orphan() as orphan:
            assert orphan is None


def test_segments_are_deleted_when_stored_and_long_attempts_move_on(tmp_path: Path) -> None:
    with FileJournal(tmp_path, segment_bytes=4096) as journal:
        journal.begin(attempt("long"))
        for number in range(300):
            journal.begin(attempt(str(number)))
            journal.end(str(number), outcome(), NOON + 1)
            if number % 10 == 9:
                assert len(journal.read(100)) == 10
                journal.forget()
                assert len(files(tmp_path)) <= 5
        assert journal.size_bytes() == sum(file.stat().st_size for file in files(tmp_path))
        journal.end("long", outcome(), NOON + 9)
        assert journal.read(100) == [settled("long", NOON + 9)]


@pytest.mark.parametrize("seed", range(30))
def test_every_attempt_is_read_once_by_this_process_or_found_by_the_next(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    dead = FileJournal(
        tmp_path, segment_bytes=chance.choice([600, 3000, 20_000]), most_kept=chance.choice([0, 3, 20, 1000])
    )
    open_ids: list[str] = []
    ended: set[str] = set()
    stored: set[str] = set()
    for number in range(400):
        step = chance.random()
        if step < 0.45:
            dead.begin(attempt(f"a{number}"))
            open_ids.append(f"a{number}")
        elif step < 0.85 and open_ids:
            id_ = open_ids.pop(-1 if chance.random() < 0.8 else chance.randrange(len(open_ids)))
            dead.end(id_, outcome(), NOON)
            ended.add(id_)
        elif rows := {row.attempt.id for row in dead.read(chance.randrange(1, 50))}:
            assert not stored & rows
            stored |= rows
            dead.forget()
    if chance.random() < 0.5:
        stored |= {row.attempt.id for row in dead.read(1000)}
        assert stored == ended
    abandon(dead)
    with FileJournal(tmp_path) as later:
        rows_left, open_left = read_all(later, tmp_path)
    left = {row.attempt.id for row in rows_left}
    assert len(left) == len(rows_left)
    assert left | stored == ended
    assert set(open_left) - stored == set(open_ids)


def test_a_torn_last_line_is_the_end_that_never_came(tmp_path: Path) -> None:
    dead = FileJournal(tmp_path)
    dead.begin(attempt("a"))
    dead.begin(attempt("b"))
    dead.end("a", outcome(), NOON)
    dead.end("b", outcome(), NOON)
    abandon(dead)
    file = files(tmp_path)[0]
    os.truncate(file, file.stat().st_size - 20)
    with FileJournal(tmp_path) as later:
        rows, open_ids = read_all(later, tmp_path)
    assert [row.attempt.id for row in rows] == ["a"]
    assert open_ids == ["b"]
    assert b'"e","b"' in (tmp_path / "refused.bad").read_bytes()


@pytest.mark.parametrize("damage", [b"9", b"\xff\x00", b"", b"{"])
def test_a_corrupt_line_is_kept_aside_and_hides_no_other(tmp_path: Path, damage: bytes) -> None:
    dead = FileJournal(tmp_path)
    for id_ in ("a", "b", "c"):
        dead.begin(attempt(id_))
        dead.end(id_, outcome(), NOON)
    abandon(dead)
    file = files(tmp_path)[0]
    lines = file.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"number":1', b'"number":' + damage)
    file.write_bytes(b"\n".join(lines))
    with FileJournal(tmp_path) as later:
        rows, open_ids = read_all(later, tmp_path)
    assert [row.attempt.id for row in rows] == ["a", "c"]
    assert open_ids == []
    assert (tmp_path / "refused.bad").read_bytes() == lines[2] + b"\n"
    assert (tmp_path / "refused.bad").stat().st_mode & 0o077 == 0


def test_lines_of_another_version_are_read(tmp_path: Path) -> None:
    from_later = attempt("a")
    dead = FileJournal(tmp_path)
    dead.begin(from_later)
    abandon(dead)
    file = files(tmp_path)[0]
    text = (
        file.read_bytes()[9:].rstrip(b"\n").replace(b'"door":', b'"window":1,"door":').replace(b',"trace_id":""', b"")
    )
    file.write_bytes(b"%08x %b\n" % (crc32(text), text))
    with FileJournal(tmp_path) as later, later.orphan() as orphan:
        assert orphan is not None
        assert orphan.read(1) == []
        assert orphan.unfinished() == [from_later]


def test_text_that_unicode_does_not_have_is_replaced(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        journal.begin(attempt("a", principal="x\ud800y"))
        journal.end("a", outcome(), NOON)
        assert journal.read(1)[0].attempt.principal == "x?y"


def test_what_a_crash_left_of_a_deleted_folder_goes_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "1-empty").mkdir()
    (tmp_path / "2-not-ours").mkdir()
    (tmp_path / "2-not-ours" / "file").touch()
    with FileJournal(tmp_path) as journal, journal.orphan() as orphan:
        assert orphan is None
    assert [path.name for path in tmp_path.iterdir()] == ["2-not-ours"]


def test_a_huge_line_is_read(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        journal.begin(attempt("a", alias="x" * 300_000))
        journal.end("a", outcome(), NOON)
        assert len(journal.read(1)[0].attempt.alias) == 300_000


def test_at_its_limit_nothing_begins_and_everything_may_end(tmp_path: Path) -> None:
    with FileJournal(tmp_path, segment_bytes=2000, limit_bytes=10_000) as journal:
        begun = 0
        with pytest.raises(LedgerFull):
            while True:
                journal.begin(attempt(str(begun)))
                begun += 1
        assert begun > 10
        assert "limit" in (journal.trouble() or "")
        for number in range(begun):
            journal.end(str(number), outcome(), NOON)
        assert len(journal.read(1000)) == begun
        journal.forget()
        assert journal.trouble() is None
        journal.begin(attempt("again"))


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("most_kept", [0, 1, 1000])
def test_a_full_disk_refuses_begins_keeps_ends_and_mends(tmp_path: Path, most_kept: int) -> None:
    with FileJournal(tmp_path, most_kept=most_kept) as journal:
        journal.begin(attempt("a"))
        journal.begin(attempt("b"))
        size = files(tmp_path)[0].stat().st_size
        with full_disk(size + 30):
            with pytest.raises(LedgerFull):
                journal.begin(attempt("c"))
            journal.end("a", outcome(), NOON)
            journal.end("b", outcome(), NOON)
            journal.mend()
            assert "cannot be written" in (journal.trouble() or "")
            assert files(tmp_path)[0].stat().st_size == size
            known = [row.attempt.id for row in journal.read(10)]
            assert known == (["a", "b"] if most_kept > 1 else [])
        journal.mend()
        assert journal.trouble() is None
        assert known + [row.attempt.id for row in journal.read(10)] == ["a", "b"]
        journal.begin(attempt("d"))
        journal.end("d", outcome(), NOON)
        assert [row.attempt.id for row in journal.read(10)] == ["d"]


def test_rows_that_are_not_read_are_few_in_memory_and_all_in_the_files(tmp_path: Path) -> None:
    with FileJournal(tmp_path, segment_bytes=20_000, most_kept=50) as journal:
        for number in range(1000):
            journal.begin(attempt(str(number)))
            journal.end(str(number), outcome(), NOON)
        assert len(journal._reader._kept) + len(journal._reader._open) <= 51
        ids = [row.attempt.id for _ in range(30) for row in journal.read(40)]
        assert ids == [str(number) for number in range(1000)]
        journal.begin(attempt("a"))
        journal.end("a", outcome(), NOON)
        assert len(journal._reader._kept) == 1
        assert [row.attempt.id for row in journal.read(40)] == ["a"]
        journal.forget()
        assert len(files(tmp_path)) == 1


def test_a_disk_that_mends_by_itself_is_noticed_without_ends(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        with full_disk(0), pytest.raises(LedgerFull):
            journal.begin(attempt("a"))
        assert journal.trouble() is not None
        journal.mend()
        journal.begin(attempt("a"))


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    root = tmp_path / "new" / "journal"
    with FileJournal(root) as journal:
        journal.begin(attempt("a"))
        assert root.stat().st_mode & 0o077 == 0
        assert all(file.stat().st_mode & 0o077 == 0 for file in root.rglob("*"))
