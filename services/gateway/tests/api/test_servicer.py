"""The typed door, with a real stub: the same calls, the same key, the same errors."""

import asyncio

import grpc
import pytest
from gateway_fakes import Gateway, new_key
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import ingest_pb2 as ingest
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from servicekit.testing import eventually


@pytest.fixture
async def stub(gateway: Gateway):
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        yield GatewayServiceStub(channel)


def key_of(text: str):
    return (("authorization", f"Bearer {text}"),)


def conversation(model: str) -> pb.Conversation:
    return pb.Conversation(model=model, messages=[inference.Message(role="user", content="Hi")])


def reason_of(error: grpc.aio.AioRpcError) -> ErrorInfo:
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    found = ErrorInfo()
    Status.FromString(raw).details[0].Unpack(found)
    return found


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Embed", pb.EmbedRequest(model="minilm-l6", texts=["a"])),
        ("ListModels", pb.ListModelsRequest()),
        ("GetModel", pb.GetModelRequest(name="rag:docs")),
        ("Ask", pb.AskRequest(question=orchestrator.Question(knowledge_base="docs", text="Who?"))),
        ("CreateKnowledgeBase", pb.CreateKnowledgeBaseRequest(name="docs")),
        ("GetKnowledgeBase", pb.GetKnowledgeBaseRequest(name="docs")),
        ("ListKnowledgeBases", pb.ListKnowledgeBasesRequest()),
        ("DeleteKnowledgeBase", pb.DeleteKnowledgeBaseRequest(name="docs")),
        ("GetDocument", pb.GetDocumentRequest(knowledge_base="docs", id="d1")),
        ("ListDocuments", pb.ListDocumentsRequest(knowledge_base="docs")),
        ("DeleteDocument", pb.DeleteDocumentRequest(knowledge_base="docs", id="d1")),
        ("Search", pb.SearchRequest(knowledge_base="docs", text="x")),
        ("ListFeatureViews", pb.ListFeatureViewsRequest()),
        ("GetFeatures", pb.GetFeaturesRequest(features=["v:f"])),
        ("PushFeatures", pb.PushFeaturesRequest(feature_view="v")),
        ("GetProvenance", pb.GetProvenanceRequest(id="ans_1")),
    ],
)
async def test_unary_calls(stub, gateway: Gateway, method: str, request_) -> None:
    if method != "GetFeatures":
        answer = await getattr(stub, method)(request_, metadata=key_of(gateway.key), timeout=5)
        assert answer.ByteSize() > 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, method)(request_, timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(caught.value).reason == "invalid_api_key"


@pytest.mark.parametrize("model", ["writer", "rag:docs"])
async def test_chat(stub, gateway: Gateway, model: str) -> None:
    metadata = key_of(gateway.key)
    whole = await stub.Chat(pb.ChatRequest(conversation=conversation(model)), metadata=metadata)
    (choice,) = whole.choices
    assert (choice.message.content, choice.finish_reason, whole.usage.output_tokens) == ("Hello there.", 1, 3)
    assert whole.HasField("answer") == model.startswith("rag:")
    request = pb.StreamChatRequest(conversation=conversation(model))
    events = [event async for event in stub.StreamChat(request, metadata=metadata)]
    assert "".join(delta.text for event in events for delta in event.deltas) == choice.message.content
    assert [event.HasField("finished") for event in events] == [False] * (len(events) - 1) + [True]
    assert [delta.finish_reason for delta in events[-1].deltas] == [inference.FINISH_REASON_STOP]
    assert events[-1].finished.served.model == "writer"
    assert not events[-1].finished.choices


async def test_streams(stub, gateway: Gateway) -> None:
    metadata = key_of(gateway.key)
    question = orchestrator.Question(knowledge_base="docs", text="Who?")
    events = [event async for event in stub.StreamAsk(pb.StreamAskRequest(question=question), metadata=metadata)]
    assert "".join(event.text for event in events) == events[-1].answer.text
    documents = [ingest.SourceDocument(id="a", content=b"x"), ingest.SourceDocument(id="b")]
    request = pb.IngestDocumentsRequest(knowledge_base="docs", documents=documents)
    news = [event.progress async for event in stub.IngestDocuments(request, metadata=metadata)]
    assert [each.stage for each in news] == [1, 3, 4, 5]


async def test_errors(stub, gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await stub.Chat(pb.ChatRequest(conversation=conversation("none")), metadata=key_of(gateway.key))
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    info = reason_of(unknown.value)
    assert (info.reason, info.metadata["field"]) == ("model_not_found", "model")
    key, text = new_key(frozenset({"embeddings"}))
    await gateway.store.add(key)
    with pytest.raises(grpc.aio.AioRpcError) as forbidden:
        await stub.Chat(pb.ChatRequest(conversation=conversation("writer")), metadata=key_of(text))
    assert forbidden.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError) as empty:
        await stub.Chat(pb.ChatRequest(conversation=pb.Conversation(model="writer")), metadata=key_of(gateway.key))
    assert empty.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_leaving_a_stream_stops_the_model(stub, gateway: Gateway) -> None:
    gateway.world.endless = True
    call = stub.StreamChat(pb.StreamChatRequest(conversation=conversation("writer")), metadata=key_of(gateway.key))
    async for _ in call:
        break
    call.cancel()
    await asyncio.wait_for(gateway.world.ended.wait(), 1)
    await eventually(lambda: gateway.desk.gate.counts.running == [0, 0, 0])
    assert (await gateway.desk.row()).outcome.status == "cancelled"
