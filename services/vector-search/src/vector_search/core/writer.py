"""One queue for all changes: durable first, then searchable, then answered."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import numpy as np
from servicekit.errors import PenstockError, Unavailable
from servicekit.telemetry.metrics import counter, gauge, histogram

from vector_search.core import recovery
from vector_search.core.commands import Answer, Command, Ledger
from vector_search.core.corpus import Corpus, Library
from vector_search.core.knowledge import Document, Entry, KnowledgeBase
from vector_search.core.ports import BaseCreated, BaseDeleted, Change, DenseIndex, DocumentDropped, DocumentPut, Log

MOST_WAITING: Final = 256
MOST_IN_BATCH: Final = 64
SETTLE_ROWS: Final = 256
"""Rows not yet settled cost a search about 35 microseconds each; settling costs about 30 ms."""
SETTLE_AFTER_S: Final = 0.2
REPAIR_PERIOD_S: Final = 2.0

BATCH = histogram(
    "penstock_vector_search_commit_changes", "Commands committed together", buckets=(1, 2, 4, 8, 16, 32, 64)
)
DOCUMENTS = gauge("penstock_vector_search_documents", "Documents of all tenants")
CHUNKS = gauge("penstock_vector_search_chunks", "Chunks of all tenants")
LOG_BYTES = gauge("penstock_vector_search_log_bytes", "Size of the log on disk")
FAILED = counter("penstock_vector_search_index_failures", "Times the index did not take what the log had")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    command: Command
    future: asyncio.Future[Answer]


Outcome = Answer | PenstockError


class Writer:
    """Takes commands from any number of callers and carries them out in one thread, many to a commit."""

    def __init__(self, library: Library, source: Log, index: DenseIndex) -> None:
        """Take the applied state, the log and the index; nothing is read before `run`."""
        self._library = library
        self._log = source
        self._index = index
        self._numbers = source.numbers()
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._unsettled: dict[int, int] = {}
        self._behind: set[tuple[str, str]] = set()

    @property
    def trouble(self) -> str | None:
        """Say why searches may miss what the log has, or None."""
        return f"the index is behind the log in {len(self._behind)} knowledge bases" if self._behind else None

    async def submit(self, command: Command) -> Answer:
        """Return the command's answer when its change is durable and searchable.

        Raises Unavailable: queue_full, storage_full (nothing was stored), index_failed (stored, searchable later).
        """
        self._library.require_loaded()
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable(f"{MOST_WAITING} changes are waiting already", reason="queue_full", retry_after_s=0.5)
        waiting = _Waiting(command, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        return await waiting.future

    async def run(self) -> None:
        """Load the library, then carry out commands until cancelled; what has begun then is finished first."""
        with ThreadPoolExecutor(1, "writer") as thread:
            await self._in(thread, lambda: recovery.load(self._library, self._log, self._index))
            self._measure()
            while True:
                await self._until_needed(thread)
                if batch := self._batch():
                    outcomes = await self._in(thread, partial(self._carry_out, batch))
                    _answer(batch, cast("Sequence[Outcome]", outcomes))
                    self._measure()
                await self._in(thread, lambda: self._settle(SETTLE_ROWS))

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], object]) -> object:
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    async def _until_needed(self, thread: ThreadPoolExecutor) -> None:
        """Wait for a command; use the quiet for settling and repairing."""
        while not self._waiting:
            self._wake.clear()
            pause_s = SETTLE_AFTER_S if self._unsettled else REPAIR_PERIOD_S if self._behind else None
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                await self._in(thread, self._use_quiet)

    def _batch(self) -> list[_Waiting]:
        """Take the longest run of commands that do not bear on each other; callers who have left are dropped."""
        ledger = Ledger(self._library, self._log, self._numbers)
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < MOST_IN_BATCH:
            if self._waiting[0].future.done():
                self._waiting.popleft()
                continue
            if not ledger.independent(self._waiting[0].command):
                break
            batch.append(self._waiting.popleft())
        return batch

    def _carry_out(self, batch: Sequence[_Waiting]) -> list[Outcome]:
        self._repair()
        ledger = Ledger(self._library, self._log, self._numbers)
        outcomes = [self._planned(ledger, waiting.command) for waiting in batch]
        # Numbers that a failed commit used up are not given out again: the next commit simply goes on after them.
        self._numbers = ledger.numbers
        if not ledger.changes:
            return outcomes
        try:
            self._log.commit(ledger.changes)
        except Unavailable as error:
            return [outcome if isinstance(outcome, PenstockError) else error for outcome in outcomes]
        BATCH.observe(len(batch))
        failed = self._apply(ledger.changes)
        return [
            failed[key] if (key := (waiting.command.tenant, waiting.command.name)) in failed else outcome
            for waiting, outcome in zip(batch, outcomes, strict=True)
        ]

    def _planned(self, ledger: Ledger, command: Command) -> Outcome:
        if (command.tenant, command.name) in self._behind:
            return Unavailable(
                "the index is being brought to what the log has", reason="index_failed", retry_after_s=2.0
            )
        try:
            return ledger.plan(command)
        except PenstockError as error:
            return error

    def _apply(self, changes: Sequence[Change]) -> dict[tuple[str, str], PenstockError]:
        """Make committed changes searchable; return what failed, by knowledge base, to be repaired later."""
        by_base: dict[tuple[str, str], list[Change]] = {}
        for change in changes:
            by_base.setdefault((change.base.tenant, change.base.name), []).append(change)
        failed: dict[tuple[str, str], PenstockError] = {}
        for key, those in by_base.items():
            try:
                self._apply_to(key, those)
            except Unavailable as error:
                log.exception("the index did not take what the log has of knowledge base %d", those[0].base.number)
                FAILED.inc()
                failed[key] = error
                self._behind.add(key)
        return failed

    def _apply_to(self, key: tuple[str, str], changes: Sequence[Change]) -> None:
        """Add new rows, show them, then remove old ones, so that no search in between finds neither."""
        base = changes[0].base
        if isinstance(changes[0], BaseDeleted):
            self._library.corpora.pop(key, None)
            self._unsettled.pop(base.number, None)
            self._index.drop(base.number)
            return
        if isinstance(changes[0], BaseCreated):
            self._index.create(base.number, base.encoder.dimensions)
            self._library.corpora[key] = Corpus(base)
        corpus = self._library.corpora[key]
        self._add([change.entry for change in changes if isinstance(change, DocumentPut)], base)
        old: list[int] = []
        for change in changes:
            gone = _gone(change)
            if gone is not None:
                old.extend(corpus.rows(gone.number))
            _show(change, corpus)
        if old:
            self._index.remove(base.number, old)

    def _add(self, entries: Sequence[Entry], base: KnowledgeBase) -> None:
        if not entries:
            return
        passages = [(row, entry.document.number) for entry in entries for row in entry.rows]
        self._index.add(base.number, passages, np.concatenate([entry.vectors for entry in entries]))
        self._unsettled[base.number] = self._unsettled.get(base.number, 0) + len(passages)

    def _use_quiet(self) -> None:
        self._settle(1)
        self._repair()

    def _settle(self, least_rows: int) -> None:
        for number in [number for number, rows in self._unsettled.items() if rows >= least_rows]:
            del self._unsettled[number]
            try:
                self._index.settle(number)
            except Unavailable:
                log.exception("the index of knowledge base %d could not be settled", number)

    def _repair(self) -> None:
        """Bring what is behind to what the log says."""
        if not self._behind:
            return
        bases = {(base.tenant, base.name): base for base in self._log.bases()}
        for key in list(self._behind):
            base = bases.get(key)
            try:
                if base is None:
                    self._drop_strays({known.number for known in bases.values()})
                    self._library.corpora.pop(key, None)
                else:
                    recovery.reconcile(base, self._log, self._index)
                    self._library.corpora[key] = recovery.read(base, self._log)
            except Unavailable:
                log.exception("the index is still behind the log")
            else:
                self._behind.discard(key)

    def _drop_strays(self, known: set[int]) -> None:
        for number in self._index.bases() - known:
            self._index.drop(number)

    def _measure(self) -> None:
        bases = list(self._library.bases())
        DOCUMENTS.set(sum(base.document_count for base in bases))
        CHUNKS.set(sum(base.chunk_count for base in bases))
        LOG_BYTES.set(self._log.size_bytes())


def _gone(change: Change) -> Document | None:
    """Return the document that a change takes away, if any."""
    if isinstance(change, DocumentPut):
        return change.replaced
    return change.document if isinstance(change, DocumentDropped) else None


def _show(change: Change, corpus: Corpus) -> None:
    """Let searches see a change."""
    if isinstance(change, DocumentPut):
        texts = [chunk.text for chunk in change.entry.chunks]
        corpus.put(change.revision, change.entry.document, change.entry.first_row, texts)
    elif isinstance(change, DocumentDropped):
        corpus.drop(change.revision, change.document.id)


def _answer(batch: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
    for waiting, outcome in zip(batch, outcomes, strict=True):
        if waiting.future.done():
            continue
        if isinstance(outcome, PenstockError):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)
