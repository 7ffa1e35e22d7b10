"""The orchestrator's gRPC service: translates messages; every decision is the core's."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from penstock.orchestrator.v1 import answer_pb2 as answers
from penstock.orchestrator.v1 import orchestrator_pb2 as pb
from penstock.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc
from servicekit import identity
from servicekit.errors import NotFound
from servicekit.rpc import Service

from orchestrator.api.messages import (
    read_question,
    read_search,
    read_source,
    write_answer,
    write_hit,
    write_progress,
)
from orchestrator.core.answer import Answer
from orchestrator.core.asking import Answerer
from orchestrator.core.ingesting import Ingester
from orchestrator.core.ports import ProvenanceStore
from orchestrator.core.searching import Finder


@dataclass(frozen=True, slots=True)
class Cores:
    """What the service is made of."""

    answerer: Answerer
    finder: Finder
    ingester: Ingester
    store: ProvenanceStore


class OrchestratorServicer(pb_grpc.OrchestratorServiceServicer):
    """Implements penstock.orchestrator.v1.OrchestratorService."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores

    async def Ask(self, request: pb.AskRequest, context: Any) -> pb.AskResponse:  # noqa: ARG002
        """Answer a question as a whole."""
        question = read_question(request.question, identity.current().tenant)
        async with aclosing(self._cores.answerer.answer(question, streaming=False)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return pb.AskResponse(answer=write_answer(event))
        raise AssertionError("an answer is always the last event")

    async def StreamAsk(self, request: pb.StreamAskRequest, context: Any) -> AsyncGenerator[pb.StreamAskResponse, None]:  # noqa: ARG002
        """Answer a question as it is written."""
        question = read_question(request.question, identity.current().tenant)
        async with aclosing(self._cores.answerer.answer(question, streaming=True)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    yield pb.StreamAskResponse(answer=write_answer(event))
                else:
                    yield pb.StreamAskResponse(text=event)

    async def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:  # noqa: ARG002
        """Search a knowledge base."""
        found = await self._cores.finder.find(read_search(request))
        return pb.SearchResponse(hits=[write_hit(passage) for passage in found.passages], revision=found.revision)

    async def IngestDocuments(
        self,
        request: pb.IngestDocumentsRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncGenerator[pb.IngestDocumentsResponse, None]:
        """Ingest documents."""
        sources = [read_source(document) for document in request.documents]
        async with aclosing(self._cores.ingester.ingest(request.knowledge_base, sources)) as news:
            async for progress in news:
                yield pb.IngestDocumentsResponse(progress=write_progress(progress))

    async def GetProvenance(self, request: pb.GetProvenanceRequest, context: Any) -> pb.GetProvenanceResponse:  # noqa: ARG002
        """Say what an answer was made from."""
        content = await self._cores.store.find(identity.current().tenant, request.id)
        if content is None:
            raise NotFound("there is no answer of this id", field="id")
        return pb.GetProvenanceResponse(provenance=answers.Provenance.FromString(content))


def service(cores: Cores) -> Service:
    """Return the service with the scope each method needs."""
    return Service(
        "penstock.orchestrator.v1.OrchestratorService",
        pb_grpc.add_OrchestratorServiceServicer_to_server,
        OrchestratorServicer(cores),
        {
            "Ask": "ask",
            "StreamAsk": "ask",
            "Search": "knowledge:read",
            "IngestDocuments": "knowledge:write",
            "GetProvenance": "ask",
        },
    )
