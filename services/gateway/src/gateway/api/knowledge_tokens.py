"""How many tokens an encoder reads of searches and documents: a bound to reserve, and a likely count to book."""

from collections.abc import Sequence
from typing import Final

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.orchestrator.v1 import ingest_pb2 as ingest
from penstock.vector_search.v1 import vector_search_pb2 as vectors

from gateway.core.token_bounds import most_tokens

BYTES_PER_TOKEN: Final = 4
CHUNK_TOKENS: Final = 256
"""What an encoder reads of a chunk at most: the usual chunk has 220 tokens, and its document's title before it."""

PDF: Final = "application/pdf"
PDF_BYTES_PER_TOKEN: Final = 16
"""Much of a PDF is fonts and pictures. One of compressed text alone may have more tokens; they count when it is in."""


def tokens_of_search(request: pb.SearchRequest) -> int:
    """Return how many tokens a search has encoded at most; a search by words alone has none."""
    return 0 if request.mode == vectors.SEARCH_MODE_LEXICAL else most_tokens(request.text.encode()) + 2


def likely_tokens_of_search(request: pb.SearchRequest) -> int:
    """Return how many tokens a search probably had encoded; no service counts them."""
    return min(tokens_of_search(request), len(request.text.encode()) // BYTES_PER_TOKEN + 2)


def tokens_of_documents(documents: Sequence[ingest.SourceDocument]) -> int:
    """Return how many tokens documents come to, if all of them are new."""
    return sum(map(_most_tokens, documents))


def tokens_of_news(progress: ingest.IngestProgress, documents: Sequence[ingest.SourceDocument]) -> int:
    """Return how many tokens were encoded since the news before: those of a document when it has been embedded."""
    if progress.stage != ingest.INGEST_STAGE_EMBEDDED or progress.index >= len(documents):
        return 0
    likely = len(documents[progress.index].content) // BYTES_PER_TOKEN + 1
    return min(likely, progress.chunk_count * CHUNK_TOKENS)


def _most_tokens(document: ingest.SourceDocument) -> int:
    if document.media_type == PDF:
        return len(document.content) // PDF_BYTES_PER_TOKEN + 1
    return most_tokens(document.content) + 1
