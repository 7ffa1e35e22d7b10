"""The typed door: translates messages; every decision is made in calls.py."""
# ruff: noqa: ARG002  the signature is gRPC's

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1.gateway_pb2_grpc import GatewayServiceServicer, add_GatewayServiceServicer_to_server
from servicekit.rpc import Service

from gateway.api.calls import Calls

NAME: Final = "penstock.gateway.v1.GatewayService"


class GatewayServicer(GatewayServiceServicer):
    """GatewayService over the calls that REST makes, too."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        return await self._calls.chat(request.conversation)

    async def StreamChat(
        self, request: pb.StreamChatRequest, context: Any
    ) -> AsyncGenerator[pb.StreamChatResponse, None]:
        async with aclosing(self._calls.stream_chat(request.conversation)) as events:
            async for event in events:
                yield event

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        embedded = await self._calls.embed(request)
        return pb.EmbedResponse(encoder=embedded.encoder, vectors=embedded.vectors, token_counts=embedded.token_counts)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=await self._calls.list_models())

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=await self._calls.get_model(request.name))

    async def Ask(self, request: pb.AskRequest, context: Any) -> pb.AskResponse:
        return pb.AskResponse(answer=await self._calls.ask(request.question))

    async def StreamAsk(self, request: pb.StreamAskRequest, context: Any) -> AsyncGenerator[pb.StreamAskResponse, None]:
        async with aclosing(self._calls.stream_ask(request.question)) as events:
            async for event in events:
                yield event

    async def CreateKnowledgeBase(
        self, request: pb.CreateKnowledgeBaseRequest, context: Any
    ) -> pb.CreateKnowledgeBaseResponse:
        created = await self._calls.create_knowledge_base(request.name)
        return pb.CreateKnowledgeBaseResponse(knowledge_base=created)

    async def GetKnowledgeBase(self, request: pb.GetKnowledgeBaseRequest, context: Any) -> pb.GetKnowledgeBaseResponse:
        found = await self._calls.get_knowledge_base(request.name)
        return pb.GetKnowledgeBaseResponse(knowledge_base=found)

    async def ListKnowledgeBases(
        self, request: pb.ListKnowledgeBasesRequest, context: Any
    ) -> pb.ListKnowledgeBasesResponse:
        listed = await self._calls.list_knowledge_bases()
        return pb.ListKnowledgeBasesResponse(knowledge_bases=listed.knowledge_bases)

    async def DeleteKnowledgeBase(
        self, request: pb.DeleteKnowledgeBaseRequest, context: Any
    ) -> pb.DeleteKnowledgeBaseResponse:
        deleted = await self._calls.delete_knowledge_base(request.name)
        return pb.DeleteKnowledgeBaseResponse(deleted_documents=deleted)

    async def IngestDocuments(
        self, request: pb.IngestDocumentsRequest, context: Any
    ) -> AsyncGenerator[pb.IngestDocumentsResponse, None]:
        async with aclosing(self._calls.ingest(request)) as events:
            async for event in events:
                yield event

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Any) -> pb.GetDocumentResponse:
        found = await self._calls.get_document(request.knowledge_base, request.id)
        return pb.GetDocumentResponse(document=found.document, chunks=found.chunks)

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Any) -> pb.ListDocumentsResponse:
        page = await self._calls.list_documents(request.knowledge_base, request.page_size, request.page_token)
        return pb.ListDocumentsResponse(documents=page.documents, next_page_token=page.next_page_token)

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: Any) -> pb.DeleteDocumentResponse:
        revision = await self._calls.delete_document(request.knowledge_base, request.id)
        return pb.DeleteDocumentResponse(revision=revision)

    async def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:
        found = await self._calls.search(request)
        return pb.SearchResponse(hits=found.hits, revision=found.revision)

    async def ListFeatureViews(self, request: pb.ListFeatureViewsRequest, context: Any) -> pb.ListFeatureViewsResponse:
        listed = await self._calls.list_feature_views()
        return pb.ListFeatureViewsResponse(feature_views=listed.feature_views)

    async def GetFeatures(self, request: pb.GetFeaturesRequest, context: Any) -> pb.GetFeaturesResponse:
        return pb.GetFeaturesResponse(entities=(await self._calls.get_features(request)).entities)

    async def PushFeatures(self, request: pb.PushFeaturesRequest, context: Any) -> pb.PushFeaturesResponse:
        pushed = await self._calls.push_features(request)
        return pb.PushFeaturesResponse(accepted=pushed.accepted, rejected=pushed.rejected)

    async def GetProvenance(self, request: pb.GetProvenanceRequest, context: Any) -> pb.GetProvenanceResponse:
        return pb.GetProvenanceResponse(provenance=await self._calls.get_provenance(request.id))


def gateway_service(calls: Calls) -> Service:
    """Return the typed door. Its methods need no scope here: a call checks its own, for both doors alike."""
    methods = pb.DESCRIPTOR.services_by_name["GatewayService"].methods
    scopes: Mapping[str, str] = {method.name: "" for method in methods}
    return Service(NAME, add_GatewayServiceServicer_to_server, GatewayServicer(calls), scopes)
