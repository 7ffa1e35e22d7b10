"""Every way to ask for something that costs money, as calls that return what was billed, or None: not afforded."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1 import gateway_pb2_grpc as pb_grpc
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

CHAT_MODEL, PACED_MODEL, ENCODER, KNOWLEDGE_BASE = "paid", "paid-paced", "minilm-l6", "paid"
QUESTION = "How many turbines does the plant at the river have, and who looks after the penstock? (caller {})"
MOST_WORDS = 12
TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Billed:
    """The tokens that a caller was told of."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Lines:
    """The connections of one key to one gateway."""

    rest: httpx.AsyncClient
    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]

    @property
    def typed(self) -> pb_grpc.GatewayServiceStub:
        """The typed gRPC door."""
        return pb_grpc.GatewayServiceStub(self.channel)


Door = Callable[[Lines, int], Awaitable[Billed | None]]


def refused(response: httpx.Response) -> bool:
    """Say whether a limit refused a call; assert that nothing else did, and that it says when to come back."""
    if response.status_code == 200:
        return False
    assert response.status_code == 429, response.text
    assert 1 <= int(response.headers["retry-after"]) <= 120
    if "budget" in response.text:
        assert response.json()["error"]["code"] == "budget_exhausted", response.text
        assert response.headers["x-should-retry"] == "false"
    return True


async def typed_or_none(call: Awaitable[Any]) -> Any:
    """Return an answer, or None when a limit refused it; fail on every other error."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
        return None


def _body(caller: int, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": QUESTION.format(caller)}]
    return {"model": CHAT_MODEL, "messages": turns, "max_tokens": MOST_WORDS, **more}


def _conversation(caller: int) -> pb.Conversation:
    turns = [inference.Message(role="user", content=QUESTION.format(caller))]
    made = pb.Conversation(model=CHAT_MODEL, messages=turns)
    made.sampling.max_tokens = MOST_WORDS
    return made


async def chat(lines: Lines, caller: int) -> Billed | None:
    """Ask for a chat over REST."""
    response = await lines.rest.post("/v1/chat/completions", json=_body(caller))
    if refused(response):
        return None
    usage = response.json()["usage"]
    return Billed(usage["prompt_tokens"], usage["completion_tokens"])


async def chat_streamed(lines: Lines, caller: int) -> Billed | None:
    """Ask for a chat over REST, in events."""
    return await _streamed(lines, _body(caller))


async def paced(lines: Lines, caller: int) -> Billed | None:
    """Ask a slow model for a chat over REST, in events; raise httpx.TransportError when the gateway goes."""
    return await _streamed(lines, _body(caller, model=PACED_MODEL, max_tokens=100))


async def _streamed(lines: Lines, body: dict[str, Any]) -> Billed | None:
    asked = body | {"stream": True, "stream_options": {"include_usage": True}}
    response = await lines.rest.post("/v1/chat/completions", json=asked)
    if refused(response):
        return None
    *_, last, done = [line for line in response.text.split("\n") if line]
    assert done == "data: [DONE]", response.text[-500:]
    usage = json.loads(last.removeprefix("data: "))["usage"]
    return Billed(usage["prompt_tokens"], usage["completion_tokens"])


async def embeddings(lines: Lines, caller: int) -> Billed | None:
    """Ask for vectors over REST."""
    texts = [QUESTION.format(caller), f"Turbine {caller}"]
    response = await lines.rest.post("/v1/embeddings", json={"model": ENCODER, "input": texts})
    return None if refused(response) else Billed(response.json()["usage"]["prompt_tokens"], 0)


async def typed_chat(lines: Lines, caller: int) -> Billed | None:
    """Ask for a chat over gRPC."""
    request = pb.ChatRequest(conversation=_conversation(caller))
    made = await typed_or_none(lines.typed.Chat(request, metadata=lines.metadata, timeout=TIMEOUT_S))
    return made and Billed(made.usage.input_tokens, made.usage.output_tokens)


async def typed_chat_streamed(lines: Lines, caller: int) -> Billed | None:
    """Ask for a chat over gRPC, piece by piece."""
    request = pb.StreamChatRequest(conversation=_conversation(caller))
    call = lines.typed.StreamChat(request, metadata=lines.metadata, timeout=TIMEOUT_S)
    events = await typed_or_none(_all(call))
    if events is None:
        return None
    usage = next(event.finished.usage for event in events if event.HasField("finished"))
    return Billed(usage.input_tokens, usage.output_tokens)


async def typed_embed(lines: Lines, caller: int) -> Billed | None:
    """Ask for vectors over gRPC, of texts and of token ids by turns."""
    request = pb.EmbedRequest(model=ENCODER)
    if caller % 2:
        request.tokens.add(ids=[2000 + caller % 500, 7, 8, 9] * 6)
    else:
        request.texts.append(QUESTION.format(caller))
    made = await typed_or_none(lines.typed.Embed(request, metadata=lines.metadata, timeout=TIMEOUT_S))
    return made and Billed(sum(made.token_counts), 0)


def _question(caller: int) -> dict[str, Any]:
    return {"knowledge_base": KNOWLEDGE_BASE, "question": f"What turns turbine {caller}?", "model": CHAT_MODEL}


async def ask(lines: Lines, caller: int) -> Billed | None:
    """Ask a pipeline over REST."""
    response = await lines.rest.post("/v1/ask", json=_question(caller))
    return None if refused(response) else _answered(response.json())


async def ask_streamed(lines: Lines, caller: int) -> Billed | None:
    """Ask a pipeline over REST, in events."""
    response = await lines.rest.post("/v1/ask", json=_question(caller) | {"stream": True})
    if refused(response):
        return None
    last = [line for line in response.text.split("\n") if line.startswith("data: ")][-1]
    return _answered(json.loads(last.removeprefix("data: ")))


def _answered(answer: dict[str, Any]) -> Billed:
    assert answer["degradations"] == [], answer
    usage = answer["usage"]
    return Billed(usage["prompt_tokens"], usage["completion_tokens"])


async def typed_ask(lines: Lines, caller: int) -> Billed | None:
    """Ask a pipeline over gRPC."""
    asked = _question(caller)
    question = orchestrator.Question(
        knowledge_base=asked["knowledge_base"], text=asked["question"], model=asked["model"]
    )
    request = pb.AskRequest(question=question)
    made = await typed_or_none(lines.typed.Ask(request, metadata=lines.metadata, timeout=TIMEOUT_S))
    return made and Billed(made.answer.usage.input_tokens, made.answer.usage.output_tokens)


IDS = [101, 7592, 2088, 102]


async def tensors(lines: Lines, caller: int) -> Billed | None:
    """Run an encoder on tensors over gRPC, which costs no tokens."""
    request = oip.ModelInferRequest(model_name=ENCODER)
    for name, values in (("input_ids", IDS), ("attention_mask", [1] * len(IDS))):
        tensor = request.inputs.add(name=name, datatype="INT64", shape=[1, len(values)])
        tensor.contents.int64_contents.extend(values)
    door = oip_grpc.GRPCInferenceServiceStub(lines.channel)
    made = await typed_or_none(door.ModelInfer(request, metadata=lines.metadata, timeout=TIMEOUT_S))
    return made and Billed(0, 0)


async def rest_tensors(lines: Lines, caller: int) -> Billed | None:
    """Run an encoder on tensors over REST."""
    tensor = {"name": "input_ids", "shape": [1, len(IDS)], "datatype": "INT64", "data": IDS}
    body = {"inputs": [tensor, tensor | {"name": "attention_mask", "data": [1] * len(IDS)}]}
    response = await lines.rest.post(f"/v2/models/{ENCODER}/infer", json=body)
    return None if refused(response) else Billed(0, 0)


async def _all(call: Any) -> list[Any]:
    return [event async for event in call]


CHATS: dict[str, Door] = {
    "REST chat": chat,
    "REST chat, SSE": chat_streamed,
    "gRPC chat": typed_chat,
    "gRPC chat, stream": typed_chat_streamed,
}
EMBEDDINGS: dict[str, Door] = {"REST embeddings": embeddings, "gRPC embed": typed_embed}
PIPELINES: dict[str, Door] = {"REST ask": ask, "REST ask, SSE": ask_streamed, "gRPC ask": typed_ask}
TENSORS: dict[str, Door] = {"OIP gRPC": tensors, "OIP REST": rest_tensors}
