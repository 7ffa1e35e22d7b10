"""Mutated messages at the gRPC doors: a clean status for each, no bug, and the server lives on."""

import random
from typing import Any

import grpc
import pytest
from gateway_admin_fakes import running_office
from gateway_fakes import Gateway
from gateway_mutation_fakes import CLEAN, MUTATIONS, mutated
from google.protobuf import message_factory
from penstock.gateway.v1 import admin_pb2 as admin
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from tritonclient.grpc import service_pb2 as oip

GATEWAY, OIP = "/penstock.gateway.v1.GatewayService/", "/inference.GRPCInferenceService/"


def conversation() -> pb.Conversation:
    made = pb.Conversation(model="writer", messages=[inference.Message(role="user", content="Hi, what is it?")])
    made.sampling.temperature = 0.5
    made.sampling.stop.append("x")
    return made


def embed_tokens() -> pb.EmbedRequest:
    request = pb.EmbedRequest(model="minilm-l6", dimensions=4)
    request.tokens.add(ids=[1, 2, 300, 30_000])
    return request


def push() -> pb.PushFeaturesRequest:
    request = pb.PushFeaturesRequest(feature_view="user_profile")
    row = request.rows.add()
    row.entity.keys["user_id"].int_value = 5
    row.values["age"].int_value = 7
    row.event_time.seconds = 1_700_000_000
    return request


def infer() -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="echo", id="7", raw_input_contents=[bytes(range(48))])
    request.inputs.add(name="in", datatype="INT64", shape=[3, 2])
    request.parameters["count"].int64_param = 1
    return request


REQUESTS: dict[str, Any] = {
    f"{GATEWAY}Chat": pb.ChatRequest(conversation=conversation()),
    f"{GATEWAY}Embed": embed_tokens(),
    f"{GATEWAY}ListModels": pb.ListModelsRequest(),
    f"{GATEWAY}GetModel": pb.GetModelRequest(name="org/writer"),
    f"{GATEWAY}Ask": pb.AskRequest(question=orchestrator.Question(knowledge_base="docs", text="Who?", top_k=3)),
    f"{GATEWAY}CreateKnowledgeBase": pb.CreateKnowledgeBaseRequest(name="docs"),
    f"{GATEWAY}GetKnowledgeBase": pb.GetKnowledgeBaseRequest(name="docs"),
    f"{GATEWAY}ListKnowledgeBases": pb.ListKnowledgeBasesRequest(),
    f"{GATEWAY}DeleteKnowledgeBase": pb.DeleteKnowledgeBaseRequest(name="docs"),
    f"{GATEWAY}GetDocument": pb.GetDocumentRequest(knowledge_base="docs", id="d1"),
    f"{GATEWAY}ListDocuments": pb.ListDocumentsRequest(knowledge_base="docs", page_size=5, page_token="x"),
    f"{GATEWAY}DeleteDocument": pb.DeleteDocumentRequest(knowledge_base="docs", id="d1"),
    f"{GATEWAY}Search": pb.SearchRequest(knowledge_base="docs", text="x", top_k=4),
    f"{GATEWAY}ListFeatureViews": pb.ListFeatureViewsRequest(),
    f"{GATEWAY}GetFeatures": pb.GetFeaturesRequest(features=["v:f"]),
    f"{GATEWAY}PushFeatures": push(),
    f"{GATEWAY}GetProvenance": pb.GetProvenanceRequest(id="ans_1"),
    f"{OIP}ServerLive": oip.ServerLiveRequest(),
    f"{OIP}ServerReady": oip.ServerReadyRequest(),
    f"{OIP}ServerMetadata": oip.ServerMetadataRequest(),
    f"{OIP}ModelReady": oip.ModelReadyRequest(name="echo", version="1"),
    f"{OIP}ModelMetadata": oip.ModelMetadataRequest(name="echo"),
    f"{OIP}ModelConfig": oip.ModelConfigRequest(name="echo"),
    f"{OIP}ModelInfer": infer(),
}


def test_no_unary_method_of_the_gateway_is_left_out() -> None:
    described = pb.DESCRIPTOR.services_by_name["GatewayService"].methods
    assert {f"{GATEWAY}{each.name}" for each in described if not each.server_streaming} <= REQUESTS.keys()


@pytest.mark.parametrize("method", REQUESTS, ids=lambda method: method.rpartition("/")[2])
async def test_mutated_messages_end_in_a_clean_status(gateway: Gateway, method: str, caplog) -> None:
    dice, message = random.Random(method), REQUESTS[method].SerializeToString()
    metadata = (("authorization", f"Bearer {gateway.key}"),)
    seen: dict[grpc.StatusCode, int] = {}
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        call = channel.unary_unary(method)
        for _ in range(MUTATIONS):
            sent = mutated(message, dice)
            try:
                await call(sent, metadata=metadata, timeout=20)
                code = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                code = error.code()
                assert code in CLEAN, f"{sent!r}: {code} {error.details()}"
                assert "Traceback" not in (error.details() or "")
            seen[code] = seen.get(code, 0) + 1
        await call(message, metadata=metadata, timeout=20)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
    assert len(seen) > 1, seen


ADMIN = admin.DESCRIPTOR.services_by_name["AdminService"]


@pytest.mark.parametrize("method", [each.name for each in ADMIN.methods])
async def test_mutated_messages_to_the_administration(method: str, caplog) -> None:
    request = message_factory.GetMessageClass(ADMIN.methods_by_name[method].input_type)()
    for field in request.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(request, field.name, "acme")
    dice, message, seen = random.Random(method), request.SerializeToString(), set()
    async with running_office() as office, grpc.aio.insecure_channel(office.grpc_address) as channel:
        call = channel.unary_unary(f"/{ADMIN.full_name}/{method}")
        for _ in range(MUTATIONS):
            sent = mutated(message, dice)
            try:
                await call(sent, metadata=(("authorization", f"Bearer {office.root}"),), timeout=20)
                seen.add(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as error:
                assert error.code() in CLEAN, f"{sent!r}: {error.code()} {error.details()}"
                seen.add(error.code())
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
    assert grpc.StatusCode.INVALID_ARGUMENT in seen
