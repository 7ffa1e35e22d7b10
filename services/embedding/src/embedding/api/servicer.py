"""Translates between messages and the embedder; every decision is the embedder's."""

from typing import Any, Final

from penstock.embedding.v1 import embedding_pb2 as pb
from penstock.embedding.v1 import embedding_pb2_grpc as pb_grpc
from servicekit.rpc import Service

from embedding.core.embedder import Embedder, Embedding
from embedding.core.limits import EitherTextsOrTokens
from embedding.core.ports import Fingerprint

NAME: Final = "penstock.embedding.v1.EmbeddingService"
SCOPES: Final = {"Embed": "embeddings", "GetEncoder": "embeddings"}


class EmbeddingServicer(pb_grpc.EmbeddingServiceServicer):
    """The two calls of the service."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:  # noqa: ARG002
        """Encode texts, or token ids."""
        embedding = await self._embed(request, request.dimensions if request.HasField("dimensions") else None)
        return pb.EmbedResponse(
            encoder=_message(embedding.encoder),
            vectors=embedding.vectors,
            token_counts=[text.tokens for text in embedding.texts],
        )

    async def _embed(self, request: pb.EmbedRequest, dimensions: int | None) -> Embedding:
        if not request.tokens:
            return await self._embedder.embed(request.model, request.texts, dimensions)
        if request.texts:
            raise EitherTextsOrTokens("send texts or tokens, not both", field="tokens")
        return await self._embedder.embed_tokens(request.model, [each.ids for each in request.tokens], dimensions)

    async def GetEncoder(self, request: pb.GetEncoderRequest, context: Any) -> pb.GetEncoderResponse:  # noqa: ARG002
        """Say which encoder serves."""
        return pb.GetEncoderResponse(encoder=_message(await self._embedder.encoder(request.model)))


def embedding_api(embedder: Embedder) -> Service:
    """Return the service as `servicekit.rpc.serve` takes it."""
    return Service(NAME, pb_grpc.add_EmbeddingServiceServicer_to_server, EmbeddingServicer(embedder), SCOPES)


def _message(encoder: Fingerprint) -> pb.Encoder:
    return pb.Encoder(
        model=encoder.model,
        version=encoder.version,
        digest=encoder.digest,
        dimensions=encoder.dimensions,
        pooling=encoder.pooling,
        max_tokens=encoder.max_tokens,
    )
