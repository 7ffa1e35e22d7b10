"""Finds the chunks nearest to questions, many questions at a time."""

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from servicekit.errors import InvalidInput
from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, histogram

from vector_search.core.chunk_cache import ChunkCache
from vector_search.core.coalescer import Coalescer
from vector_search.core.corpus import Corpus
from vector_search.core.filters import Filter, check_filter
from vector_search.core.fusion import Ranking, depth, fuse
from vector_search.core.knowledge import Document, Encoder, Hit, Vectors, check_vectors
from vector_search.core.ports import DenseIndex, Selection

SEARCHES = counter("penstock_vector_search_searches", "Searches", ("mode",))
BATCH = histogram("penstock_vector_search_batch_searches", "Searches made together", buckets=(1, 2, 4, 8, 16, 32, 64))
SECONDS = histogram("penstock_vector_search_batch_seconds", "Seconds of one batch of searches", (), SHORT_BUCKETS_S)


class Mode(Enum):
    """Which signals rank the hits."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


@dataclass(frozen=True, slots=True)
class Question:
    """What is searched for: text for BM25, vector [dimensions] for the cosine; `min_revision` 0 asks for nothing."""

    text: str
    vector: Vectors
    encoder: Encoder
    top_k: int
    filters: Filter = ()
    mode: Mode = Mode.HYBRID
    min_revision: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, and the revision that was searched."""

    hits: Sequence[Hit]
    revision: int


@dataclass(frozen=True, slots=True)
class _Lane:
    """What searches must share to be made together; the filter's spelling tells 1 from True, which are equal."""

    corpus: Corpus
    mode: Mode
    spelling: str
    filters: Filter = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Ranked:
    """The chunks that a search came upon, best first, and the revision that was searched."""

    chunks: Sequence[tuple[int, Document, float, float | None]]
    revision: int


class Searcher:
    """Searches one knowledge base at a time; searches of the same base, filter and mode are made together."""

    def __init__(self, index: DenseIndex, chunks: ChunkCache, executor: Executor) -> None:
        """Take where vectors are found, where chunks are read, and the threads that do what is not done at once."""
        self._index = index
        self._chunks = chunks
        self._coalescer: Coalescer[_Lane, Question, _Ranked] = Coalescer(self._search, executor, self._at_once)

    async def search(self, corpus: Corpus, question: Question) -> Found:
        """Return at most `top_k` hits of the knowledge base.

        Raises InvalidInput, EncoderMismatch, and Unavailable when the index fails.
        """
        _check(corpus, question)
        SEARCHES.labels(question.mode.value).inc()
        spelling = repr(question.filters) if question.filters else ""
        lane = _Lane(corpus, question.mode, spelling, question.filters)
        ranked = await self._coalescer.ask(lane, question)
        return Found(await self._hits(ranked.chunks, question.top_k), ranked.revision)

    async def _hits(self, ranked: Sequence[tuple[int, Document, float, float | None]], top_k: int) -> list[Hit]:
        """Return the best with their texts; chunks that were removed while the search ran are left out."""
        chunks = await self._chunks.read([row for row, *_ in ranked[:top_k]])
        if len(chunks) < min(top_k, len(ranked)):
            chunks = await self._chunks.read([row for row, *_ in ranked])
        found = [Hit(document, chunks[row], score, cosine) for row, document, score, cosine in ranked if row in chunks]
        return found[:top_k]

    def _at_once(self, lane: _Lane, questions: int) -> bool:
        """Say whether the loop can do it: no filter to try on every document, no change under way, a short product."""
        return not lane.filters and not lane.corpus.busy and self._index.at_once(lane.corpus.base.number, questions)

    def _search(self, lane: _Lane, questions: Sequence[Question]) -> list[_Ranked]:
        start = time.perf_counter()
        corpus = lane.corpus
        revision = corpus.base.revision
        limit = depth(max(question.top_k for question in questions))
        selection = corpus.select(lane.filters)
        dense = self._dense(lane, questions, limit, selection)
        lexical = self._lexical(lane, questions, limit, selection)
        ranked = []
        for question, nearest, worded in zip(questions, dense, lexical, strict=True):
            deep = depth(question.top_k)
            ranking = _rank(lane.mode, nearest[:deep], worded[:deep])
            documents, cosines = corpus.shown(row for row, _ in ranking), dict(nearest)
            chunks = [(row, documents[row], score, cosines.get(row)) for row, score in ranking if row in documents]
            ranked.append(_Ranked(chunks, revision))
        BATCH.observe(len(questions))
        SECONDS.observe(time.perf_counter() - start)
        return ranked

    def _dense(
        self, lane: _Lane, questions: Sequence[Question], limit: int, selection: Selection | None
    ) -> Sequence[Ranking]:
        base = lane.corpus.base
        nothing = base.chunk_count == 0 or (
            selection is not None and not selection.documents and not selection.excluded
        )
        if nothing or lane.mode is Mode.LEXICAL:
            return [[] for _ in questions]
        vectors = np.stack([question.vector for question in questions])
        return self._index.search(base.number, vectors, limit, selection)

    def _lexical(
        self, lane: _Lane, questions: Sequence[Question], limit: int, selection: Selection | None
    ) -> Sequence[Ranking]:
        if lane.mode is Mode.DENSE:
            return [[] for _ in questions]
        return lane.corpus.rank([question.text for question in questions], limit, selection)


def _check(corpus: Corpus, question: Question) -> None:
    """Raise InvalidInput or EncoderMismatch unless the question can be asked of this knowledge base."""
    base = corpus.base
    check_filter(question.filters)
    if not 1 <= question.top_k <= 100:
        raise InvalidInput(f"top_k is {question.top_k}; 1 to 100 hits can be asked for", field="top_k")
    if question.mode is Mode.LEXICAL:
        if not question.text.strip():
            raise InvalidInput("a lexical search needs a text", field="text")
    else:
        base.require_encoder(question.encoder)
        if question.vector.shape != (base.encoder.dimensions,):
            raise InvalidInput(
                f"the vector has {question.vector.size} numbers; the knowledge base has vectors of "
                f"{base.encoder.dimensions}",
                field="vector",
            )
        check_vectors(question.vector[np.newaxis], "vector")
    if question.min_revision > base.revision:
        raise InvalidInput(
            f"revision {question.min_revision} does not exist; the last one is {base.revision}", field="min_revision"
        )


def _rank(mode: Mode, dense: Ranking, lexical: Ranking) -> Ranking:
    if mode is Mode.HYBRID:
        return fuse(dense, lexical)
    return dense if mode is Mode.DENSE else lexical
