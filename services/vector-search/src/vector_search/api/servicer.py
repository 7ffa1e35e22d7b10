"""The service's gRPC calls: messages in, messages out; every decision is the store's."""

from typing import Any, Final

from grpc.aio import ServicerContext
from penstock.vector_search.v1 import vector_search_pb2 as pb
from penstock.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit import identity
from servicekit.rpc import Service
from servicekit.telemetry import AttributeValue, genai, span

from vector_search.api import messages
from vector_search.core.store import KnowledgeStore

DEFAULT_PAGE: Final = 100
READ: Final = "knowledge:read"
WRITE: Final = "knowledge:write"
SCOPES: Final = {
    "CreateKnowledgeBase": WRITE,
    "GetKnowledgeBase": READ,
    "ListKnowledgeBases": READ,
    "DeleteKnowledgeBase": WRITE,
    "UpsertDocument": WRITE,
    "GetDocument": READ,
    "ListDocuments": READ,
    "DeleteDocument": WRITE,
    "Search": READ,
}
Context = ServicerContext[Any, Any]


class VectorSearchServicer(pb_grpc.VectorSearchServiceServicer):
    """Works for the tenant of the caller's identity, and for no other."""

    def __init__(self, store: KnowledgeStore) -> None:
        self._store = store

    async def CreateKnowledgeBase(
        self, request: pb.CreateKnowledgeBaseRequest, _: Context
    ) -> pb.CreateKnowledgeBaseResponse:
        """Create a knowledge base or return the one that is there."""
        encoder = messages.to_encoder(request.encoder)
        base = await self._store.create(_tenant(), request.name, encoder)
        return pb.CreateKnowledgeBaseResponse(knowledge_base=messages.of_base(base))

    async def GetKnowledgeBase(self, request: pb.GetKnowledgeBaseRequest, _: Context) -> pb.GetKnowledgeBaseResponse:
        """Return a knowledge base."""
        base = self._store.get(_tenant(), request.name)
        return pb.GetKnowledgeBaseResponse(knowledge_base=messages.of_base(base))

    async def ListKnowledgeBases(
        self, _request: pb.ListKnowledgeBasesRequest, _: Context
    ) -> pb.ListKnowledgeBasesResponse:
        """Return the tenant's knowledge bases."""
        bases = self._store.list(_tenant())
        return pb.ListKnowledgeBasesResponse(knowledge_bases=[messages.of_base(base) for base in bases])

    async def DeleteKnowledgeBase(
        self, request: pb.DeleteKnowledgeBaseRequest, _: Context
    ) -> pb.DeleteKnowledgeBaseResponse:
        """Delete a knowledge base."""
        documents = await self._store.delete(_tenant(), request.name)
        return pb.DeleteKnowledgeBaseResponse(deleted_documents=documents)

    async def UpsertDocument(self, request: pb.UpsertDocumentRequest, _: Context) -> pb.UpsertDocumentResponse:
        """Store a document."""
        entry, encoder = messages.to_entry(request), messages.to_encoder(request.encoder)
        document, revision, changed = await self._store.put(_tenant(), request.knowledge_base, entry, encoder)
        return pb.UpsertDocumentResponse(document=messages.of_document(document), revision=revision, changed=changed)

    async def GetDocument(self, request: pb.GetDocumentRequest, _: Context) -> pb.GetDocumentResponse:
        """Return a document with its chunks."""
        document, chunks = await self._store.document(_tenant(), request.knowledge_base, request.id)
        return pb.GetDocumentResponse(
            document=messages.of_document(document), chunks=[messages.of_chunk(chunk) for chunk in chunks]
        )

    async def ListDocuments(self, request: pb.ListDocumentsRequest, _: Context) -> pb.ListDocumentsResponse:
        """Return a page of documents."""
        page_size = request.page_size or DEFAULT_PAGE
        after = messages.to_page_start(request.page_token)
        page = await self._store.documents(_tenant(), request.knowledge_base, after, page_size)
        return pb.ListDocumentsResponse(
            documents=[messages.of_document(document) for document in page],
            next_page_token=messages.of_page_end(page, page_size),
        )

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, _: Context) -> pb.DeleteDocumentResponse:
        """Delete a document."""
        revision = await self._store.drop(_tenant(), request.knowledge_base, request.id)
        return pb.DeleteDocumentResponse(revision=revision)

    async def Search(self, request: pb.SearchRequest, _: Context) -> pb.SearchResponse:
        """Find the chunks nearest to a question."""
        question = messages.to_question(request)
        attributes: dict[str, AttributeValue] = {
            genai.OPERATION_NAME: genai.RETRIEVAL,
            genai.DATA_SOURCE_ID: request.knowledge_base,
            genai.REQUEST_TOP_K: question.top_k,
        }
        with span(f"{genai.RETRIEVAL} {request.knowledge_base}", attributes=attributes) as opened:
            found = await self._store.search(_tenant(), request.knowledge_base, question)
            opened.set("penstock.search.hits", len(found.hits))
        return pb.SearchResponse(hits=[messages.of_hit(hit) for hit in found.hits], revision=found.revision)


def vector_search_api(store: KnowledgeStore) -> Service:
    """Return the service for `servicekit.rpc.serve`."""
    return Service(
        name="penstock.vector_search.v1.VectorSearchService",
        add=pb_grpc.add_VectorSearchServiceServicer_to_server,
        servicer=VectorSearchServicer(store),
        scopes=SCOPES,
    )


def _tenant() -> str:
    return identity.current().tenant
