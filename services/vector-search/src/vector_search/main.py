"""Puts the vector-search service together and runs it."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from servicekit import entry
from servicekit.rpc import serve

from vector_search.adapters.owner import OwnedByAnother, name_of, owning
from vector_search.adapters.sqlite import SqliteLog
from vector_search.api.servicer import vector_search_api
from vector_search.core.chunk_cache import ChunkCache
from vector_search.core.corpus import Library
from vector_search.core.searcher import Searcher
from vector_search.core.sized import Limits, SizedIndex
from vector_search.core.store import KnowledgeStore
from vector_search.core.writer import Writer
from vector_search.settings import Settings


async def run(settings: Settings) -> None:
    """Serve until stopped; raise OwnedByAnother when another process has the data directory."""
    with ExitStack() as opened:
        opened.enter_context(owning(settings.data_dir))
        # pymilvus takes over 2 s to import, and a second owner has to be told at once.
        from vector_search.adapters.milvus import MilvusLite, MilvusServer  # noqa: PLC0415

        log = opened.enter_context(SqliteLog(settings.data_dir / "log.sqlite"))
        server = settings.milvus_url.get_secret_value()
        milvus = (
            MilvusServer(server, name_of(settings.data_dir)) if server else MilvusLite(settings.data_dir / "index.db")
        )
        index = SizedIndex(opened.enter_context(milvus), log, Limits(settings.exact_rows, settings.exact_bytes))
        readers = opened.enter_context(ThreadPoolExecutor(settings.search_threads, "reader"))
        library = Library()
        writer = Writer(library, log, index)
        searcher = Searcher(index, ChunkCache(log, readers, settings.chunk_cache_bytes), readers)
        store = KnowledgeStore(library, log, writer, searcher, readers)
        await serve(settings, [vector_search_api(store)], readiness=store.readiness, background=[writer.run])


def main() -> None:
    """Run the service to its end."""
    try:
        entry.main("vector-search", Settings, run)
    except OwnedByAnother as error:
        sys.stderr.write(f"vector-search: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
