"""POST /v1/chat/completions, plain and streamed, for catalogue models and pipelines."""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from penstock.gateway.v1 import gateway_pb2 as pb
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import json_response, read
from gateway.api.calls import Calls
from gateway.api.chat_request import ChatRequest
from gateway.api.event_stream import EventStream, event_bytes
from gateway.api.render import FINISH_REASONS, extension_json, usage_json

DONE = b"data: [DONE]\n\n"


class ChatRoutes:
    """Chat in OpenAI's form."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def complete(self, request: Request) -> Response:
        """Write the next turn of a conversation."""
        asked = await read(request, ChatRequest)
        conversation = asked.conversation()
        if asked.stream:
            with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
            return EventStream(self._chunks(conversation, with_usage=with_usage))
        finished = await self._calls.chat(conversation)
        message = {"role": "assistant", "content": finished.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(finished)}
        body = {
            **_head("chat.completion", conversation.model),
            "choices": [choice],
            "usage": usage_json(finished.usage),
        }
        if finished.HasField("answer"):
            body["penstock"] = extension_json(finished.answer)
        return json_response(body)

    async def _chunks(self, conversation: pb.Conversation, *, with_usage: bool) -> AsyncGenerator[bytes, None]:
        head = _head("chat.completion.chunk", conversation.model)
        if with_usage:
            head["usage"] = None
        delta: dict[str, Any] = {"role": "assistant"}
        async with aclosing(self._calls.stream_chat(conversation)) as events:
            async for event in events:
                if event.WhichOneof("event") == "text":
                    yield _chunk(head, {**delta, "content": event.text})
                    delta = {}
                    continue
                finished = event.finished
                if delta:
                    yield _chunk(head, {**delta, "content": ""})
                extension = {"penstock": extension_json(finished.answer)} if finished.HasField("answer") else {}
                yield _chunk({**head, **extension}, {}, _reason(finished))
                if with_usage:
                    yield event_bytes(orjson.dumps({**head, "choices": [], "usage": usage_json(finished.usage)}))
        yield DONE


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _chunk(head: dict[str, Any], delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return event_bytes(orjson.dumps({**head, "choices": [choice]}))


def _reason(finished: pb.ChatResponse) -> str:
    return FINISH_REASONS[finished.finish_reason]
