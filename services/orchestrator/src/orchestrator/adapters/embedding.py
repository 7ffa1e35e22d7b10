"""Embeds texts with the embedding service."""

from collections.abc import Sequence

from penstock.embedding.v1 import embedding_pb2 as pb
from penstock.embedding.v1 import embedding_pb2_grpc as pb_grpc
from servicekit.rpc import Channel

from orchestrator.core.passage import Embedding, Encoder


class EmbeddingClient:
    """The embedding service behind the Embedder port."""

    def __init__(self, channel: Channel, model: str = "") -> None:
        """Take an open channel and the encoder's catalogue name; empty means the service's default."""
        self._channel = channel
        self._stub = pb_grpc.EmbeddingServiceStub(channel.grpc)
        self._model = model

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Embedding:
        """Return one vector per text, in order."""
        request = pb.EmbedRequest(model=self._model, texts=texts)
        response = await self._channel.call(self._stub.Embed, request, timeout_s=timeout_s, idempotent=True)
        encoder = response.encoder
        fingerprint = Encoder(
            encoder.model,
            encoder.version,
            encoder.digest,
            encoder.dimensions,
            encoder.pooling,
            encoder.max_tokens,
        )
        return Embedding(fingerprint, response.vectors)
