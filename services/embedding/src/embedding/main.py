"""Puts the embedding service together and runs it."""

from servicekit import entry
from servicekit.rpc import Channel, serve

from embedding.adapters.huggingface import HuggingFaceTokenizer
from embedding.adapters.oip import OipEncoder
from embedding.api.servicer import embedding_api
from embedding.core.batcher import Batcher, BatcherLimits
from embedding.core.embedder import Embedder, Limits
from embedding.core.length_queue import BatchLimits
from embedding.core.limits import TextLimits
from embedding.settings import Settings

ASK_TIMEOUT_S = 5.0


async def run(settings: Settings) -> None:
    """Serve until told to stop."""
    tokenizer = HuggingFaceTokenizer(settings.tokenizer_file)
    async with Channel(settings.inference_address, settings.tls) as channel:
        encoder = OipEncoder(channel, settings.model, settings.encode_timeout_s, ASK_TIMEOUT_S)
        batches = BatchLimits(settings.batch_texts, settings.batch_tokens)
        batcher = Batcher(encoder, BatcherLimits(batches, settings.concurrent_batches, settings.waiting_texts))
        texts = TextLimits(settings.max_texts, settings.max_text_bytes, settings.max_request_bytes)
        limits = Limits(texts, settings.cache_bytes, settings.refresh_s)
        embedder = Embedder(settings.model, encoder, tokenizer, batcher, limits)
        await serve(
            settings,
            [embedding_api(embedder)],
            readiness=embedder.readiness,
            background=[batcher.run, embedder.watch],
        )


def main() -> None:
    """Run the service; the settings come from the environment."""
    entry.main("embedding", Settings, run)


if __name__ == "__main__":
    main()
