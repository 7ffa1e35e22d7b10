"""POST /v1/chat/completions, plain and streamed, for models, aliases and pipelines."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import json_body, json_response
from gateway.api.calls import Calls
from gateway.api.chat_answer import Chunks, completion, served_headers
from gateway.api.chat_request import StreamOptions, parse_chat
from gateway.api.event_stream import EventStream, Passage
from gateway.api.upstream import check_whole

DEFAULT_OPTIONS = StreamOptions()


class ChatRoutes:
    """Chat in OpenAI's form."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def complete(self, request: Request) -> Response:
        """Write the next turn of a conversation."""
        asked = parse_chat(await json_body(request), ignore_unknown=self._calls.ignores_unknown)
        conversation = asked.conversation()
        if asked.stream:
            return await self._stream(conversation, asked.stream_options or DEFAULT_OPTIONS)
        finished = await self._calls.chat(conversation)
        response = json_response(completion(conversation.model, finished))
        response.raw_headers.extend(served_headers(finished.served))
        return response

    async def _stream(self, conversation: pb.Conversation, options: StreamOptions) -> Response:
        chunks = Chunks(
            conversation.model, usage=bool(options.include_usage), obfuscated=bool(options.include_obfuscation)
        )
        passage = Passage()

        def show(event: inference.GenerateResponse) -> bool:
            return passage.is_open and passage.write(chunks.pieces(event))

        events = self._calls.stream_chat(conversation, show)
        first = await anext(events, None)
        check_whole(first is not None)
        assert first is not None
        return EventStream(_written(first, events, chunks), served_headers(first.served), passage)


async def _written(
    first: pb.StreamChatResponse, rest: AsyncGenerator[pb.StreamChatResponse, None], chunks: Chunks
) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest) as events:
        written = _write(first, chunks)
        if written:
            yield written
        async for event in events:
            written = _write(event, chunks)
            if written:
                yield written


def _write(event: pb.StreamChatResponse, chunks: Chunks) -> bytes:
    return chunks.end(event) if event.HasField("finished") else chunks.pieces(event)
