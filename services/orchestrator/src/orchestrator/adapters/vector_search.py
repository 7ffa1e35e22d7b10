"""Searches and stores in the vector-search service."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2
from penstock.embedding.v1 import embedding_pb2
from penstock.vector_search.v1 import vector_search_pb2 as pb
from penstock.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit.errors import Forbidden, NotFound
from servicekit.rpc import Channel

from orchestrator.core.document import Embedded, KnownDocument, Stored
from orchestrator.core.passage import Encoder, Found, Passage, Query
from orchestrator.core.question import Condition, Scalar, SearchMode

MODES = {
    SearchMode.HYBRID: pb.SEARCH_MODE_HYBRID,
    SearchMode.DENSE: pb.SEARCH_MODE_DENSE,
    SearchMode.LEXICAL: pb.SEARCH_MODE_LEXICAL,
}


class VectorSearchClient:
    """The vector-search service behind the Searcher and Library ports; `timeout_s` is for calls about documents."""

    def __init__(self, channel: Channel, timeout_s: float) -> None:
        self._channel = channel
        self._stub = pb_grpc.VectorSearchServiceStub(channel.grpc)
        self._timeout_s = timeout_s

    async def search(self, query: Query, timeout_s: float) -> Found:
        """Return passages, best first."""
        request = pb.SearchRequest(
            knowledge_base=query.knowledge_base,
            text=query.text,
            top_k=query.top_k,
            filter=[_condition(condition) for condition in query.filter],
            mode=MODES[query.mode],
            min_revision=query.min_revision,
        )
        if query.embedding is not None:
            request.vector = query.embedding.vectors
            request.encoder.CopyFrom(_encoder(query.embedding.encoder))
        response = await self._channel.call(self._stub.Search, request, timeout_s=timeout_s, idempotent=True)
        return Found(tuple(map(_passage, response.hits)), response.revision)

    async def revision(self, knowledge_base: str) -> int | None:
        """Return the revision of a knowledge base, None when there is none of that name."""
        request = pb.GetKnowledgeBaseRequest(name=knowledge_base)
        try:
            response = await self._channel.call(
                self._stub.GetKnowledgeBase, request, timeout_s=self._timeout_s, idempotent=True
            )
        except (NotFound, Forbidden):  # who may only write is not told what is there
            return None
        return response.knowledge_base.revision

    async def find(self, knowledge_base: str, document_id: str) -> KnownDocument | None:
        """Return what is known of a document, None when it is not there."""
        request = pb.GetDocumentRequest(knowledge_base=knowledge_base, id=document_id)
        try:
            response = await self._channel.call(
                self._stub.GetDocument, request, timeout_s=self._timeout_s, idempotent=True
            )
        except NotFound:
            return None
        document = response.document
        return KnownDocument(
            document.title, document.content_hash, _from_struct(document.metadata), document.chunk_count
        )

    async def store(self, knowledge_base: str, document: Embedded) -> Stored:
        """Store a document as a whole; storing the same again changes nothing."""
        request = pb.UpsertDocumentRequest(
            knowledge_base=knowledge_base,
            document=pb.Document(
                id=document.id,
                title=document.title,
                content_hash=document.content_hash,
                metadata=_to_struct(document.metadata),
                chunk_count=len(document.chunks),
            ),
            chunks=[
                pb.Chunk(index=chunk.index, text=chunk.text, start=chunk.start, end=chunk.end)
                for chunk in document.chunks
            ],
            vectors=document.embedding.vectors,
            encoder=_encoder(document.embedding.encoder),
        )
        response = await self._channel.call(self._stub.UpsertDocument, request, timeout_s=self._timeout_s)
        return Stored(response.revision, response.changed)


def _passage(hit: pb.Hit) -> Passage:
    chunk = hit.chunk
    return Passage(
        document_id=hit.document_id,
        document_title=hit.document_title,
        chunk_index=chunk.index,
        text=chunk.text,
        start=chunk.start,
        end=chunk.end,
        content_hash=hit.content_hash,
        score=hit.score,
        cosine=hit.cosine if hit.HasField("cosine") else None,
        metadata=_from_struct(hit.metadata),
    )


def _encoder(encoder: Encoder) -> embedding_pb2.Encoder:
    return embedding_pb2.Encoder(
        model=encoder.model,
        version=encoder.version,
        digest=encoder.digest,
        dimensions=encoder.dimensions,
        pooling=encoder.pooling,
        max_tokens=encoder.max_tokens,
    )


def _condition(condition: Condition) -> pb.Condition:
    return pb.Condition(
        field=condition.field,
        comparison=pb.Comparison.ValueType(condition.comparison.value),
        value=_value(condition.value),
    )


def _value(value: Scalar | Sequence[Scalar] | None) -> struct_pb2.Value:
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, int | float):
        return struct_pb2.Value(number_value=value)
    if value is None:
        return struct_pb2.Value()
    return struct_pb2.Value(list_value=struct_pb2.ListValue(values=[_value(item) for item in value]))


def _to_struct(metadata: Mapping[str, Scalar | None]) -> struct_pb2.Struct:
    return struct_pb2.Struct(fields={name: _value(value) for name, value in metadata.items()})


def _from_struct(metadata: struct_pb2.Struct) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("kind") or "null_value") for name, value in metadata.fields.items()}
