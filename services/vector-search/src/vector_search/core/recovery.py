"""Brings memory and index to what the log says, at the start and after the index failed."""

import logging
from collections.abc import Sequence

from servicekit.errors import Unavailable
from servicekit.telemetry.metrics import counter

from vector_search.core.corpus import Corpus, Library
from vector_search.core.knowledge import KnowledgeBase
from vector_search.core.ports import DenseIndex, Log

REPLAYED = counter("penstock_vector_search_replayed_rows", "Rows put into or taken out of the index to match the log")
log = logging.getLogger(__name__)


def load(library: Library, source: Log, index: DenseIndex) -> None:
    """Read every knowledge base into memory and make the index hold exactly its rows; then the library can be used."""
    bases = source.bases()
    for number in index.bases() - {base.number for base in bases}:
        index.drop(number)
    for position, base in enumerate(bases, start=1):
        library.loading = f"reading knowledge base {position} of {len(bases)}"
        library.corpora[base.tenant, base.name] = read(base, source)
        reconcile(base, source, index)
    library.loading = None


def read(base: KnowledgeBase, source: Log) -> Corpus:
    """Return a knowledge base as the log has it."""
    corpus = Corpus(base)
    for document, first_row, texts in source.texts(base.number):
        corpus.put(base.revision, document, first_row, texts)
    return corpus


def reconcile(base: KnowledgeBase, source: Log, index: DenseIndex) -> None:
    """Make the index hold exactly the rows of the log, whatever it lost or kept; rebuild it when it cannot be read."""
    wanted = set(source.rows(base.number))
    try:
        index.create(base.number, base.encoder.dimensions)
        held = index.rows(base.number)
    except Unavailable as error:
        log.warning("the index of knowledge base %d cannot be read and is built again: %s", base.number, error)
        index.drop(base.number)
        index.create(base.number, base.encoder.dimensions)
        held = set()
    _replay(base, source, index, sorted(wanted - held))
    extra = sorted(held - wanted)
    if extra:
        index.remove(base.number, extra)
        REPLAYED.inc(len(extra))
    if wanted != held:
        log.info("index of knowledge base %d: %d rows added, %d removed", base.number, len(wanted - held), len(extra))
        index.settle(base.number)


def _replay(base: KnowledgeBase, source: Log, index: DenseIndex, rows: Sequence[int]) -> None:
    for passages, vectors in source.vectors(base.number, rows):
        index.add(base.number, [(passage.row, passage.document) for passage in passages], vectors)
        REPLAYED.inc(len(passages))
