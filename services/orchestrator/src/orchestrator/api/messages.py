"""Turns messages into what the core speaks of, and back."""

from collections.abc import Iterable, Mapping

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import answer_pb2 as answers
from penstock.orchestrator.v1 import ingest_pb2 as ingest
from penstock.orchestrator.v1 import orchestrator_pb2 as pb
from penstock.vector_search.v1 import vector_search_pb2 as vectors

from orchestrator.core.answer import Answer, Degradation, Provenance, Rung, ServedModel, StepTiming, Written
from orchestrator.core.document import Progress, Source, Stage
from orchestrator.core.passage import Passage
from orchestrator.core.question import Comparison, Condition, Message, Question, Sampling, Scalar, SearchMode
from orchestrator.core.searching import Search

RUNGS: Mapping[Rung, answers.Rung.ValueType] = {
    Rung.CHOSEN_MODEL: answers.RUNG_CHOSEN_MODEL,
    Rung.EXTRACTIVE_READER: answers.RUNG_EXTRACTIVE_READER,
    Rung.PASSAGES_ONLY: answers.RUNG_PASSAGES_ONLY,
}
STAGES: Mapping[Stage, ingest.IngestStage.ValueType] = {
    Stage.PARSED: ingest.INGEST_STAGE_PARSED,
    Stage.CHUNKED: ingest.INGEST_STAGE_CHUNKED,
    Stage.EMBEDDED: ingest.INGEST_STAGE_EMBEDDED,
    Stage.STORED: ingest.INGEST_STAGE_STORED,
    Stage.REJECTED: ingest.INGEST_STAGE_REJECTED,
}
MODES: Mapping[int, SearchMode] = {
    vectors.SEARCH_MODE_DENSE: SearchMode.DENSE,
    vectors.SEARCH_MODE_LEXICAL: SearchMode.LEXICAL,
}
COMPARISONS: Mapping[int, Comparison] = {comparison.value: comparison for comparison in Comparison}
NANOSECONDS = 1_000_000_000


def read_question(message: pb.Question, tenant: str) -> Question:
    """Return the question of a tenant."""
    return Question(
        tenant=tenant,
        knowledge_base=message.knowledge_base,
        text=message.text,
        model=message.model,
        top_k=message.top_k,
        filter=tuple(map(_condition, message.filter)),
        sampling=_sampling(message.sampling) if message.HasField("sampling") else Sampling(),
        history=tuple(Message(turn.role, turn.content) for turn in message.history),
        min_revision=message.min_revision,
    )


def read_search(request: pb.SearchRequest) -> Search:
    """Return the search that is asked for."""
    return Search(
        request.knowledge_base,
        request.text,
        request.top_k,
        tuple(map(_condition, request.filter)),
        MODES.get(request.mode, SearchMode.HYBRID),
        request.min_revision,
    )


def read_source(message: ingest.SourceDocument) -> Source:
    """Return the document that is sent."""
    metadata = {name: _scalar(value) for name, value in message.metadata.fields.items()}
    return Source(message.id, message.title, message.media_type, message.content, metadata)


def _condition(message: vectors.Condition) -> Condition:
    comparison = COMPARISONS.get(message.comparison, Comparison.UNSPECIFIED)
    if message.value.WhichOneof("kind") == "list_value":
        values = [_scalar(value) for value in message.value.list_value.values]
        return Condition(message.field, comparison, tuple(value for value in values if value is not None))
    return Condition(message.field, comparison, _scalar(message.value))


def _scalar(value: struct_pb2.Value) -> Scalar | None:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return value.number_value
    return value.bool_value if kind == "bool_value" else None


def _sampling(message: inference.SamplingParameters) -> Sampling:
    return Sampling(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        stop=tuple(message.stop),
        seed=message.seed if message.HasField("seed") else None,
    )


def write_answer(answer: Answer) -> answers.Answer:
    """Return the message of an answer."""
    written, grounded = answer.written, answer.written.grounded
    message = answers.Answer(
        id=answer.id,
        text=grounded.text,
        citations=[
            answers.Citation(
                number=citation.number,
                document_id=citation.document_id,
                document_title=citation.document_title,
                chunk_index=citation.chunk_index,
                start=citation.start,
                end=citation.end,
                quote=citation.quote,
            )
            for citation in grounded.citations
        ],
        groundedness=grounded.groundedness,
        declined=grounded.declined,
        removed_citations=grounded.removed_citations,
        rung=RUNGS[written.rung],
        degradations=_degradations(answer.degradations),
        passages=[write_hit(passage) for passage in answer.passages],
        timings=_timings(answer.timings),
        served=_served(written.served),
        usage=_usage(written),
    )
    if written.finish_reason is not None:
        message.finish_reason = inference.FinishReason.ValueType(written.finish_reason.value)
    return message


def write_provenance(provenance: Provenance) -> answers.Provenance:
    """Return the message of what an answer was made from."""
    answer = provenance.answer
    written, grounded = answer.written, answer.written.grounded
    return answers.Provenance(
        id=answer.id,
        created_at=timestamp_pb2.Timestamp(
            seconds=int(provenance.created_at), nanos=int(provenance.created_at % 1 * NANOSECONDS)
        ),
        pipeline=provenance.pipeline,
        knowledge_base=provenance.knowledge_base,
        knowledge_base_revision=provenance.knowledge_base_revision,
        served=_served(written.served),
        prompt_template=provenance.prompt_template,
        prompt_template_digest=provenance.prompt_template_digest,
        encoder_digest=provenance.encoder_digest,
        passages=[
            answers.PassageReference(
                document_id=passage.document_id, chunk_index=passage.chunk_index, content_hash=passage.content_hash
            )
            for passage in answer.passages
        ],
        rung=RUNGS[written.rung],
        degradations=_degradations(answer.degradations),
        timings=_timings(answer.timings),
        usage=_usage(written),
        groundedness=grounded.groundedness,
        declined=grounded.declined,
        removed_citations=grounded.removed_citations,
        trace_id=provenance.trace_id,
        reranked_by=_served(provenance.reranked_by),
    )


def write_hit(passage: Passage) -> vectors.Hit:
    """Return the message of a passage."""
    hit = vectors.Hit(
        document_id=passage.document_id,
        document_title=passage.document_title,
        chunk=vectors.Chunk(index=passage.chunk_index, text=passage.text, start=passage.start, end=passage.end),
        score=passage.score,
        cosine=passage.cosine,
        content_hash=passage.content_hash,
    )
    if passage.metadata:
        hit.metadata.update(passage.metadata)
    return hit


def write_progress(progress: Progress) -> ingest.IngestProgress:
    """Return the message of a document's progress."""
    return ingest.IngestProgress(
        index=progress.index,
        document_id=progress.document_id,
        stage=STAGES[progress.stage],
        chunk_count=progress.chunk_count,
        changed=progress.changed,
        revision=progress.revision,
        reason=progress.reason,
        message=progress.message,
        retryable=progress.retryable,
    )


def _degradations(degradations: Iterable[Degradation]) -> list[answers.Degradation]:
    return [answers.Degradation(step=each.step, reason=each.reason, message=each.message) for each in degradations]


def _timings(timings: Iterable[StepTiming]) -> list[answers.StepTiming]:
    return [
        answers.StepTiming(
            step=timing.step,
            duration=duration_pb2.Duration(seconds=int(timing.seconds), nanos=int(timing.seconds % 1 * NANOSECONDS)),
        )
        for timing in timings
    ]


def _served(served: ServedModel | None) -> inference.ServedModel | None:
    if served is None:
        return None
    return inference.ServedModel(
        model=served.model, version=served.version, digest=served.digest, provider=served.provider
    )


def _usage(written: Written) -> inference.TokenUsage | None:
    usage = written.usage
    if usage is None:
        return None
    return inference.TokenUsage(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, reported=usage.reported
    )
