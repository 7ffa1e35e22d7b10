"""Fields that OpenAI's schema does not have: passed on, refused by name or dropped, as the operator says."""

from typing import Any

import grpc
import httpx
import pytest
from gateway.api.chat_rules import UnknownFields
from gateway.settings import Settings
from gateway_fakes import running
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from penstock.inference.v1 import inference_pb2 as inference
from pydantic import ValidationError

PASS, REFUSE, IGNORE = UnknownFields.PASS, UnknownFields.REFUSE, UnknownFields.IGNORE
CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "find"}}
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "writer", "messages": [USER]},
    EMBED: {"model": "minilm-l6", "input": "a"},
}
PLACES: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"flavour": "sweet"}, "flavour"),
    (CHAT, {"messages": [{**USER, "cache_control": {"type": "ephemeral"}}]}, "messages[0].cache_control"),
    (CHAT, {"tools": [{**TOOL, "cached": True}]}, "tools[0].cached"),
    (EMBED, {"flavour": "sweet"}, "flavour"),
    (EMBED, {"input_type": None}, "input_type"),
]


@pytest.mark.parametrize(("path", "more", "field"), PLACES)
@pytest.mark.parametrize("policy", list(UnknownFields))
async def test_the_policy_decides_and_what_nobody_would_get_is_refused(
    policy: UnknownFields, path: str, more: dict[str, Any], field: str
) -> None:
    async with running(unknown_fields=policy) as gateway:
        headers = {"Authorization": f"Bearer {gateway.key}"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as http:
            response = await http.post(path, json=GOOD[path] | more)
        served = policy is IGNORE or (policy is PASS and (path, field) == (CHAT, "flavour"))
        assert response.status_code == (200 if served else 400), response.text
        if not served:
            error = response.json()["error"]
            assert (error["code"], error["param"]) == ("unknown_parameter", field)
            assert gateway.world.requests == []
            return
        (sent,) = gateway.world.requests
        assert b"sweet" in sent.SerializeToString() if policy is PASS else b"sweet" not in sent.SerializeToString()
        assert b"cache" not in sent.SerializeToString()


@pytest.mark.parametrize(
    ("policy", "sent"), [(PASS, '{"flavour":1,"verbosity":"low"}'), (IGNORE, '{"verbosity":"low"}')]
)
async def test_the_typed_door_has_the_same_policy(policy: UnknownFields, sent: str) -> None:
    conversation = pb.Conversation(model="writer", messages=[inference.Message(role="user", content="Hi")])
    conversation.options.extra_json = '{"flavour":1,"verbosity":"low"}'
    async with running(unknown_fields=policy) as gateway, grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        metadata = (("authorization", f"Bearer {gateway.key}"),)
        await GatewayServiceStub(channel).Chat(pb.ChatRequest(conversation=conversation), metadata=metadata)
        (asked,) = gateway.world.requests
    assert asked.options.extra_json == sent


async def test_the_typed_door_refuses_by_name() -> None:
    conversation = pb.Conversation(model="writer", messages=[inference.Message(role="user", content="Hi")])
    conversation.options.extra_json = '{"flavour":1}'
    async with running(unknown_fields=REFUSE) as gateway, grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        metadata = (("authorization", f"Bearer {gateway.key}"),)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await GatewayServiceStub(channel).Chat(pb.ChatRequest(conversation=conversation), metadata=metadata)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "flavour" in (refused.value.details() or "")


@pytest.mark.parametrize("model", ["writer", "rag:docs"])
async def test_what_is_ignored_asks_nothing_of_a_pipeline_either(model: str) -> None:
    conversation = pb.Conversation(model=model, messages=[inference.Message(role="user", content="Hi")])
    conversation.options.extra_json = '{"flavour":1}'
    async with running(unknown_fields=IGNORE) as gateway, grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        metadata = (("authorization", f"Bearer {gateway.key}"),)
        answered = await GatewayServiceStub(channel).Chat(pb.ChatRequest(conversation=conversation), metadata=metadata)
    assert answered.choices[0].message.content


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert UnknownFields(Settings().unknown_fields) is PASS
    for policy in UnknownFields:
        monkeypatch.setenv("GATEWAY_UNKNOWN_FIELDS", policy)
        assert UnknownFields(Settings().unknown_fields) is policy
    monkeypatch.setenv("GATEWAY_UNKNOWN_FIELDS", "drop")
    with pytest.raises(ValidationError, match="unknown_fields"):
        Settings()
