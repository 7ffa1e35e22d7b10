"""Puts the orchestrator together and runs it."""

from contextlib import AsyncExitStack

from servicekit import entry
from servicekit.rpc import Channel, serve

from orchestrator.adapters.embedding import EmbeddingClient
from orchestrator.adapters.huggingface import TokenChunker, load_tokenizer, token_counter
from orchestrator.adapters.inference import InferenceClient, RankClient
from orchestrator.adapters.parser import ParseLimits, ProcessParser
from orchestrator.adapters.pipeline_file import PIPELINES, PROMPTS, load_pipeline
from orchestrator.adapters.sqlite import SqliteProvenanceStore
from orchestrator.adapters.vector_search import VectorSearchClient
from orchestrator.api.messages import write_provenance
from orchestrator.api.servicer import Cores, service
from orchestrator.core.answer import Provenance
from orchestrator.core.asking import Answerer
from orchestrator.core.ingesting import Ingester
from orchestrator.core.prompt import PromptBuilder
from orchestrator.core.searching import Finder
from orchestrator.core.steps import preparing
from orchestrator.core.writing import Writer
from orchestrator.settings import Settings


async def run(settings: Settings) -> None:
    """Serve until told to stop."""
    pipeline, template = load_pipeline(
        settings.pipeline_file or PIPELINES / "rag.yaml",
        settings.model,
        settings.prompts_dir or PROMPTS,
        settings.reranker,
    )
    tokenizer = load_tokenizer(settings.tokenizer_file)
    async with AsyncExitStack() as stack:
        embedding, inference, vector_search = [
            await stack.enter_async_context(Channel(address, settings.tls))
            for address in (settings.embedding_address, settings.inference_address, settings.vector_search_address)
        ]
        store = await stack.enter_async_context(
            SqliteProvenanceStore(settings.provenance_file, encode, settings.provenance_retention_days)
        )
        parser = await stack.enter_async_context(ProcessParser(_parse_limits(settings)))
        embedder = EmbeddingClient(embedding, settings.encoder)
        library = VectorSearchClient(vector_search, settings.store_timeout_s)
        builder = PromptBuilder(template, pipeline.token_budget, token_counter(tokenizer))
        cores = Cores(
            answerer=Answerer(
                pipeline,
                template,
                preparing(embedder, library, builder, RankClient(inference), pipeline.rerank),
                Writer(pipeline, InferenceClient(inference)),
                store,
                settings.default_deadline_s,
            ),
            finder=Finder(embedder, library, settings.default_deadline_s),
            ingester=Ingester(
                parser,
                TokenChunker(tokenizer, settings.chunk_tokens),
                embedder,
                library,
                settings.ingest_concurrency,
                settings.embed_timeout_s,
            ),
            store=store,
        )
        await serve(settings, [service(cores)], background=[store.write, store.expire])


def encode(provenance: Provenance) -> bytes:
    """Return a provenance as it is kept."""
    return write_provenance(provenance).SerializeToString()


def _parse_limits(settings: Settings) -> ParseLimits:
    return ParseLimits(
        settings.parse_memory_mib,
        settings.parse_cpu_s,
        settings.parse_wall_s,
        settings.parse_pages,
        settings.parse_chars,
    )


def main() -> None:
    """Run the service; the settings come from the environment."""
    entry.main("orchestrator", Settings, run)


if __name__ == "__main__":
    main()
