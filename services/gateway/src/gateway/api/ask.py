"""POST /v1/ask and GET /v1/provenance/{id}: grounded answers and what they were made from."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import orjson
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import json_response, read
from gateway.api.calls import Calls
from gateway.api.chat_messages import TextMessage
from gateway.api.chat_request import Sampling
from gateway.api.event_stream import EventStream, event_bytes
from gateway.api.filters import conditions
from gateway.api.knowledge import Filter, Revision
from gateway.api.render import answer_json, provenance_json


class AskRequest(Sampling):
    """A question for a knowledge base."""

    knowledge_base: Annotated[str, Field(min_length=1, max_length=64)]
    question: Annotated[str, Field(min_length=1, max_length=8192)]
    model: Annotated[str, Field(max_length=256, description="a generating model; absent: the pipeline's own")] = ""
    top_k: Annotated[int, Field(ge=1, le=20)] | None = None
    filter: Filter | None = None
    history: list[TextMessage] = Field(default_factory=list, max_length=4096, description="earlier turns, oldest first")
    min_revision: Revision = 0
    stream: bool = False

    def typed(self) -> orchestrator.Question:
        """Return the question as the orchestrator takes it."""
        history = [
            inference.Message(role="system" if turn.role == "developer" else turn.role, content=turn.text())
            for turn in self.history
        ]
        return orchestrator.Question(
            knowledge_base=self.knowledge_base,
            text=self.question,
            model=self.model,
            top_k=self.top_k or 0,
            filter=conditions(self.filter),
            sampling=self.sampling(),
            history=history,
            min_revision=self.min_revision,
        )


class AskRoutes:
    """Questions, and the provenance of their answers."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def ask(self, request: Request) -> Response:
        """Answer a question from a knowledge base; `stream` gives `text` events, then one `answer` event."""
        asked = await read(request, AskRequest)
        question = asked.typed()
        if asked.stream:
            return EventStream(self._events(question))
        return json_response(answer_json(await self._calls.ask(question), question.knowledge_base))

    async def _events(self, question: orchestrator.Question) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._calls.stream_ask(question)) as events:
            async for event in events:
                if event.WhichOneof("event") == "answer":
                    answer = answer_json(event.answer, question.knowledge_base)
                    yield event_bytes(orjson.dumps(answer), "answer")
                else:
                    yield event_bytes(orjson.dumps({"text": event.text}), "text")

    async def provenance(self, request: Request) -> Response:
        """Say what an answer was made from."""
        return json_response(provenance_json(await self._calls.get_provenance(request.path_params["answer"])))
