"""Between the wire's messages and the core's types."""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.embedding.v1 import embedding_pb2
from penstock.vector_search.v1 import vector_search_pb2 as pb
from servicekit.errors import InvalidInput

from vector_search.core.filters import Comparison, Condition
from vector_search.core.knowledge import Chunk, Document, Encoder, Entry, Hit, KnowledgeBase, Scalar, Vectors
from vector_search.core.searcher import Mode, Question

DEFAULT_TOP_K: Final = 5
_COMPARISONS: Final = {
    pb.COMPARISON_EQUAL: Comparison.EQUAL,
    pb.COMPARISON_NOT_EQUAL: Comparison.NOT_EQUAL,
    pb.COMPARISON_LESS: Comparison.LESS,
    pb.COMPARISON_LESS_OR_EQUAL: Comparison.LESS_OR_EQUAL,
    pb.COMPARISON_GREATER: Comparison.GREATER,
    pb.COMPARISON_GREATER_OR_EQUAL: Comparison.GREATER_OR_EQUAL,
    pb.COMPARISON_IN: Comparison.IN,
}
_MODES: Final = {
    pb.SEARCH_MODE_UNSPECIFIED: Mode.HYBRID,
    pb.SEARCH_MODE_HYBRID: Mode.HYBRID,
    pb.SEARCH_MODE_DENSE: Mode.DENSE,
    pb.SEARCH_MODE_LEXICAL: Mode.LEXICAL,
}


def to_encoder(message: embedding_pb2.Encoder) -> Encoder:
    """Return an encoder's fingerprint."""
    return Encoder(
        message.model, message.version, message.digest, message.dimensions, message.pooling, message.max_tokens
    )


def to_entry(request: pb.UpsertDocumentRequest) -> Entry:
    """Return a document with chunks and vectors, not numbered yet; raise InvalidInput when the sizes do not fit."""
    document = request.document
    vectors = _floats(request.vectors, "vectors")
    wanted = len(request.chunks) * request.encoder.dimensions
    if vectors.size != wanted:
        raise InvalidInput(
            f"{vectors.size} numbers in vectors; {len(request.chunks)} chunks of {request.encoder.dimensions} "
            f"dimensions are {wanted}",
            field="vectors",
        )
    chunks = [Chunk(chunk.index, chunk.text, chunk.start, chunk.end) for chunk in request.chunks]
    metadata = to_metadata(document.metadata)
    kept = Document(0, document.id, document.title, document.content_hash, metadata, len(chunks), datetime.now(UTC))
    return Entry(
        kept, chunks, vectors.reshape(len(chunks), -1) if chunks else vectors.reshape(0, request.encoder.dimensions)
    )


def to_question(request: pb.SearchRequest) -> Question:
    """Return what is searched for; raise InvalidInput."""
    mode = _MODES.get(request.mode)
    if mode is None:
        raise InvalidInput(f"there is no search mode {request.mode}", field="mode")
    return Question(
        request.text,
        _floats(request.vector, "vector"),
        to_encoder(request.encoder),
        request.top_k or DEFAULT_TOP_K,
        tuple(_condition(condition, position) for position, condition in enumerate(request.filter)),
        mode,
        request.min_revision,
    )


def to_metadata(fields: Struct) -> dict[str, Scalar]:
    """Return metadata; raise InvalidInput for anything but text, numbers and booleans."""
    return {name: _scalar(value, f"document.metadata.{name[:64]}") for name, value in fields.fields.items()}


def to_page_start(token: str) -> str:
    """Return the id that the last page ended with; raise InvalidInput for a token that is not ours."""
    try:
        return base64.urlsafe_b64decode(token.encode("ascii")).decode("ascii")
    except (UnicodeError, binascii.Error) as error:
        raise InvalidInput("the page token is not one of ours", field="page_token") from error


def of_page_end(last: Sequence[Document], page_size: int) -> str:
    """Return the token of the page after this one; empty when this one was not full."""
    return base64.urlsafe_b64encode(last[-1].id.encode("ascii")).decode("ascii") if len(last) == page_size else ""


def of_base(base: KnowledgeBase) -> pb.KnowledgeBase:
    """Return the message of a knowledge base."""
    encoder = base.encoder
    return pb.KnowledgeBase(
        name=base.name,
        encoder=embedding_pb2.Encoder(
            model=encoder.model,
            version=encoder.version,
            digest=encoder.digest,
            dimensions=encoder.dimensions,
            pooling=encoder.pooling,
            max_tokens=encoder.max_tokens,
        ),
        revision=base.revision,
        document_count=base.document_count,
        chunk_count=base.chunk_count,
        created_at=_timestamp(base.created_at),
    )


def of_document(document: Document) -> pb.Document:
    """Return the message of a document."""
    return pb.Document(
        id=document.id,
        title=document.title,
        content_hash=document.content_hash,
        metadata=_struct(document),
        chunk_count=document.chunk_count,
        updated_at=_timestamp(document.updated_at),
    )


def of_chunk(chunk: Chunk) -> pb.Chunk:
    """Return the message of a chunk."""
    return pb.Chunk(index=chunk.index, text=chunk.text, start=chunk.start, end=chunk.end)


def of_hit(hit: Hit) -> pb.Hit:
    """Return the message of a hit."""
    return pb.Hit(
        document_id=hit.document.id,
        document_title=hit.document.title,
        chunk=of_chunk(hit.chunk),
        score=hit.score,
        cosine=hit.cosine,
        metadata=_struct(hit.document),
        content_hash=hit.document.content_hash,
    )


def _condition(message: pb.Condition, position: int) -> Condition:
    comparison = _COMPARISONS.get(message.comparison)
    field = f"filter[{position}]"
    if comparison is None:
        raise InvalidInput(f"there is no comparison {message.comparison}", field=f"{field}.comparison")
    if comparison is not Comparison.IN:
        return Condition(message.field, comparison, (_scalar(message.value, f"{field}.value"),))
    if message.value.WhichOneof("kind") != "list_value":
        raise InvalidInput("COMPARISON_IN needs a list", field=f"{field}.value")
    values = tuple(_scalar(value, f"{field}.value") for value in message.value.list_value.values)
    return Condition(message.field, comparison, values)


def _scalar(value: Value, field: str) -> Scalar:
    kind = value.WhichOneof("kind")
    if kind not in {"string_value", "number_value", "bool_value"}:
        raise InvalidInput("only text, numbers and booleans are allowed here", field=field)
    found: Any = getattr(value, kind)
    if kind == "number_value" and not np.isfinite(found):
        raise InvalidInput("the number is not finite", field=field)
    return found  # type: ignore[no-any-return]  # one of the three kinds above


def _floats(content: bytes, field: str) -> Vectors:
    if len(content) % 4:
        raise InvalidInput(f"{len(content)} bytes are not a whole number of float32", field=field)
    return np.frombuffer(content, "<f4")


def _struct(document: Document) -> Struct | None:
    if not document.metadata:
        return None
    fields = Struct()
    fields.update(dict(document.metadata))
    return fields


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message
