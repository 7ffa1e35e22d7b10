"""Typed messages as the JSON that REST answers with."""

from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.gateway.v1 import gateway_pb2 as gateway
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import answer_pb2 as answers
from penstock.vector_search.v1 import vector_search_pb2 as vectors

Json = dict[str, Any]


def enum_names(enum: Any, prefix: str) -> dict[int, str]:
    """Return the JSON names of an enum's values: FINISH_REASON_STOP becomes `stop`."""
    return {value: name.removeprefix(prefix).lower() for name, value in enum.items()}


RUNGS: Final = enum_names(answers.Rung, "RUNG_")
FINISH_REASONS: Final = enum_names(inference.FinishReason, "FINISH_REASON_")


def time_of(moment: Timestamp) -> str | None:
    """Return a time as RFC 3339 in UTC, or None when it is not set."""
    return moment.ToJsonString() if moment.seconds or moment.nanos else None


def milliseconds(duration: Duration) -> float:
    """Return a duration in milliseconds."""
    return round(duration.seconds * 1e3 + duration.nanos / 1e6, 3)


def struct_of(struct: Struct) -> Json:
    """Return a Struct as plain values, whole numbers as integers."""
    return {name: value_of(value) for name, value in struct.fields.items()}


def value_of(value: Value) -> Any:
    """Return a Value as a plain value."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return int(value.number_value) if value.number_value.is_integer() else value.number_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [value_of(item) for item in value.list_value.values]
        case "struct_value":
            return struct_of(value.struct_value)
        case _:
            return None


def encoder_json(encoder: embedding.Encoder) -> Json:
    """Return an encoder's fingerprint."""
    return {
        "model": encoder.model,
        "version": encoder.version,
        "digest": encoder.digest,
        "dimensions": encoder.dimensions,
        "pooling": encoder.pooling,
        "max_tokens": encoder.max_tokens,
    }


def served_json(served: inference.ServedModel) -> Json | None:
    """Return what served, or None when no model did."""
    if not served.model:
        return None
    return {
        "model": served.model,
        "version": served.version,
        "digest": served.digest or None,
        "provider": served.provider,
        "region": served.region or None,
        "response_id": served.response_id or None,
    }


def routing_json(routing: gateway.Routing) -> Json:
    """Return how an answer came to be served by what served it."""
    return {
        "call_id": routing.call_id,
        "attempts": [
            {"model": each.model, "outcome": each.outcome, "duration_ms": round(each.duration_ms, 3)}
            for each in routing.attempts
        ],
        "skipped": [{"model": each.model, "reason": each.reason} for each in routing.skipped],
        "cost_nanos": routing.cost_nanos,
    }


def usage_json(usage: inference.TokenUsage) -> Json | None:
    """Return token counts in OpenAI's form, or None when the backend reported none."""
    if not usage.reported:
        return None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
    }


def knowledge_base_json(base: vectors.KnowledgeBase) -> Json:
    """Return a knowledge base."""
    return {
        "object": "knowledge_base",
        "name": base.name,
        "encoder": encoder_json(base.encoder),
        "revision": base.revision,
        "document_count": base.document_count,
        "chunk_count": base.chunk_count,
        "created_at": time_of(base.created_at),
    }


def document_json(document: vectors.Document) -> Json:
    """Return a document without its text."""
    return {
        "object": "document",
        "id": document.id,
        "title": document.title,
        "content_hash": document.content_hash,
        "metadata": struct_of(document.metadata),
        "chunk_count": document.chunk_count,
        "updated_at": time_of(document.updated_at),
    }


def chunk_json(chunk: vectors.Chunk) -> Json:
    """Return a piece of a document."""
    return {"index": chunk.index, "text": chunk.text, "start": chunk.start, "end": chunk.end}


def hit_json(hit: vectors.Hit) -> Json:
    """Return a chunk that was found."""
    chunk = hit.chunk
    return {
        "document_id": hit.document_id,
        "document_title": hit.document_title,
        "chunk_index": chunk.index,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "score": hit.score,
        "cosine": hit.cosine if hit.HasField("cosine") else None,
        "metadata": struct_of(hit.metadata),
        "content_hash": hit.content_hash,
    }


def citation_json(citation: answers.Citation) -> Json:
    """Return a place that supports an answer."""
    return {
        "number": citation.number,
        "document_id": citation.document_id,
        "document_title": citation.document_title,
        "chunk_index": citation.chunk_index,
        "start": citation.start,
        "end": citation.end,
        "quote": citation.quote,
    }


def degradations_json(degradations: Any) -> list[Json]:
    """Return why an answer is less than what was asked for."""
    return [{"step": each.step, "reason": each.reason, "message": each.message} for each in degradations]


def timings_json(timings: Any) -> dict[str, float]:
    """Return milliseconds by step."""
    return {timing.step: milliseconds(timing.duration) for timing in timings}


def _standing_json(answer: answers.Answer | answers.Provenance) -> Json:
    """Return what an answer and its provenance both say about how it came to be."""
    return {
        "groundedness": answer.groundedness if answer.HasField("groundedness") else None,
        "declined": answer.declined,
        "removed_citations": answer.removed_citations,
        "rung": RUNGS[answer.rung],
        "degradations": degradations_json(answer.degradations),
        "served": served_json(answer.served),
        "timings_ms": timings_json(answer.timings),
    }


def extension_json(answer: answers.Answer) -> Json:
    """Return what a pipeline's chat says beyond OpenAI's form: the object `penstock`."""
    passages = [
        {
            "document_id": hit.document_id,
            "document_title": hit.document_title,
            "chunk_index": hit.chunk.index,
            "start": hit.chunk.start,
            "end": hit.chunk.end,
            "score": hit.score,
        }
        for hit in answer.passages
    ]
    return {
        "id": answer.id,
        "provenance_id": answer.id,
        "citations": [citation_json(citation) for citation in answer.citations],
        **_standing_json(answer),
        "passages": passages,
    }


def answer_json(answer: answers.Answer, knowledge_base: str) -> Json:
    """Return a grounded answer."""
    return {
        "object": "answer",
        "id": answer.id,
        "provenance_id": answer.id,
        "knowledge_base": knowledge_base,
        "answer": answer.text,
        "citations": [citation_json(citation) for citation in answer.citations],
        **_standing_json(answer),
        "finish_reason": FINISH_REASONS[answer.finish_reason] if answer.finish_reason else None,
        "usage": usage_json(answer.usage),
        "passages": [hit_json(hit) for hit in answer.passages],
    }


def provenance_json(provenance: answers.Provenance) -> Json:
    """Return what an answer was made from."""
    passages = [
        {"document_id": each.document_id, "chunk_index": each.chunk_index, "content_hash": each.content_hash}
        for each in provenance.passages
    ]
    return {
        "object": "provenance",
        "id": provenance.id,
        "created_at": time_of(provenance.created_at),
        "pipeline": provenance.pipeline,
        "knowledge_base": provenance.knowledge_base,
        "knowledge_base_revision": provenance.knowledge_base_revision,
        "prompt_template": provenance.prompt_template,
        "prompt_template_digest": provenance.prompt_template_digest,
        "encoder_digest": provenance.encoder_digest,
        "reranked_by": served_json(provenance.reranked_by),
        "passages": passages,
        **_standing_json(provenance),
        "usage": usage_json(provenance.usage),
        "trace_id": provenance.trace_id or None,
    }
