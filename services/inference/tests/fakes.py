"""Fakes of the pool's ports, and an upstream with the OpenAI API that answers as it is told."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import orjson
from aiohttp import web
from inference.core.answer import Answer, Choice, Delta, FinishReason, Piece, Served, TakeText, Usage
from inference.core.capabilities import ALL
from inference.core.catalogue import Model, Provider, QueueLimits, Task
from inference.core.conversation import Turn
from inference.core.generation import Order
from inference.core.ports import ModelState
from inference.core.served_model import ServedModel
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

ANSWER = (
    Piece(Served("v1", "id-1", "fp-1")),
    Piece(deltas=[Delta("Hello")]),
    Piece(deltas=[Delta(" there.")]),
    Piece(deltas=[Delta(finish_reason=FinishReason.STOP)], usage=Usage(3, 2, reported=True)),
)
_names = (f"model-{number}" for number in itertools.count())


class FakeGenerator:
    """Yields the pieces it was given, or `answer` as a whole; waits at `gate`, if it has one, before each text."""

    def __init__(
        self,
        pieces: Sequence[Piece | Exception] = ANSWER,
        gate: asyncio.Event | None = None,
        answer: Answer | None = None,
    ) -> None:
        self.pieces = pieces
        self.answer = answer
        self.gate = gate
        self.orders: list[Order] = []
        self.timeouts_s: list[float] = []
        self.running = 0

    async def generate(
        self, order: Order, timeout_s: float, take: TakeText | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces; what is nothing but text is offered to `take` first, unless it is the first of all."""
        self.orders.append(order)
        self.timeouts_s.append(timeout_s)
        self.running += 1
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                if self.gate is not None and piece.deltas:
                    await self.gate.wait()
                if take is None or not _taken(piece, take):
                    yield piece
        finally:
            self.running -= 1

    async def complete(self, order: Order, timeout_s: float) -> Answer:
        pieces = [piece async for piece in self.generate(order, timeout_s)]
        text = "".join(delta.text for piece in pieces for delta in piece.deltas)
        reason, usage, served = pieces[-1].deltas[-1].finish_reason, pieces[-1].usage, pieces[0].served
        assert reason is not None and usage is not None and served is not None
        return self.answer or Answer(served, [Choice(0, Turn("assistant", text), reason)], usage)


def _taken(piece: Piece, take: TakeText) -> bool:
    """Tell whether a piece was one text, and nothing else, and was taken."""
    if piece.served or piece.usage or len(piece.deltas) != 1:
        return False
    delta = piece.deltas[0]
    return delta == Delta(delta.text, choice=delta.choice) and bool(delta.text) and take(delta.choice, delta.text)


class FakeTensors:
    """Answers every request with fixed bytes, or with what it is told to raise."""

    def __init__(self, answer: bytes = b"", error: Exception | None = None) -> None:
        self.answer = answer
        self.error = error
        self.requests: list[bytes] = []

    async def infer(self, request: bytes, timeout_s: float) -> bytes:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return self.answer

    async def stream(self, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        yield await self.infer(request, timeout_s)
        yield self.answer

    async def metadata(self, request: bytes, timeout_s: float) -> bytes:
        return await self.infer(request, timeout_s)

    async def config(self, request: bytes, timeout_s: float) -> bytes:
        return await self.infer(request, timeout_s)


class FakeProber:
    """Says the state it was last given."""

    def __init__(self, state: ModelState) -> None:
        self.state = state

    async def probe(self, timeout_s: float) -> ModelState:
        return self.state


def model(name: str = "", task: Task = Task.GENERATE, limits: tuple[int, int] = (2, 2), **fields: Any) -> Model:
    """Return a catalogue entry; without a name it gets a new one, so that metrics of tests do not mix."""
    values: dict[str, Any] = {"provider": Provider.TRITON, "timeout_s": 5.0, "capabilities": ALL} | fields
    return Model(name or next(_names), task, queue=QueueLimits(*limits), **values)


def generating(generator: FakeGenerator, name: str = "", **fields: Any) -> ServedModel:
    """Return a ready model that writes with `generator`."""
    return ServedModel(model(name, **fields), generator=generator, state=ModelState(ready=True, version="v1"))


@dataclass
class FakeUpstream:
    """What the upstream answers: status, headers, and a body in pieces; and what it was asked."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    hang: bool = False
    break_off: bool = False
    pause_s: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    asked_headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve one request; `gone` is set when the client leaves while it runs."""
        self.asked.append(orjson.loads(await request.read()))
        self.asked_headers.append(dict(request.headers))
        self.connections.add(request.transport)
        response = web.StreamResponse(status=self.status, headers=self.headers)
        try:
            await response.prepare(request)
            for piece in self.pieces:
                await response.write(piece)
                await asyncio.sleep(self.pause_s)  # so that pieces travel apart
            if self.hang:
                await asyncio.Event().wait()
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise
        if self.break_off and request.transport is not None:
            request.transport.abort()
        return response

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeUpstream"]:
        """Serve on a free port of the loopback interface."""
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self.answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()


def chunk(text: str | None = None, finish_reason: str | None = None, **fields: Any) -> bytes:
    """Return one event of a chat completion."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + orjson.dumps({"model": "up-1", "choices": [choice]} | fields) + b"\n\n"


USAGE = chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 2})
END = chunk(finish_reason="stop") + USAGE + b"data: [DONE]\n\n"


class FakeTriton(oip_grpc.GRPCInferenceServiceServicer):
    """A Triton whose models answer as a test tells: for what a real one cannot be made to do."""

    def __init__(self) -> None:
        self.responses: list[Any] = []
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.hang = False
        self.hanging = asyncio.Event()
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.gone = asyncio.Event()

    async def ModelReady(self, request: Any, context: Any) -> Any:
        return oip.ModelReadyResponse(ready=request.name == "there")

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        response = oip.ModelConfigResponse()
        response.config.name = request.name
        response.config.parameters["digest"].string_value = "ab12"
        response.config.parameters["version"].string_value = "3"
        return response

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        return oip.ModelMetadataResponse(name=request.name, platform="fake")

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return oip.ModelInferResponse(model_name=request.model_name, raw_output_contents=request.raw_input_contents)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncGenerator[Any, None]:
        async for request in requests:
            await self._enter(request, context)
            for response in self.responses:
                yield response
        if self.hang:
            await self._hang()

    async def _enter(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failure is not None:
            await context.abort(*self.failure)
        if self.hang and not self.responses:
            await self._hang()

    async def _hang(self) -> None:
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.gone.set()

    @asynccontextmanager
    async def running(self, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
        """Serve, and yield the address."""
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        oip_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)
        port = server.add_insecure_port(address)
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0)


def text_response(text: str = "", reason: str = "None", tokens: int = 0, final: bool = False) -> Any:
    """Return a stream response with the vLLM backend's outputs."""
    response = oip.ModelStreamInferResponse()
    inner = response.infer_response
    inner.model_name, inner.model_version = "there", "1"
    inner.parameters["triton_final_response"].bool_param = final
    values = {
        "text_output": _string(text),
        "finish_reason": _string(reason),
        "num_input_tokens": (11).to_bytes(4, "little"),
        "num_output_tokens": tokens.to_bytes(4, "little"),
    }
    for name, value in values.items():
        inner.outputs.add(name=name, datatype="BYTES", shape=[1])
        inner.raw_output_contents.append(value)
    return response


def final_response() -> Any:
    """Return the empty response that ends an answer."""
    response = oip.ModelStreamInferResponse()
    response.infer_response.parameters["triton_final_response"].bool_param = True
    return response


def _string(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(4, "little") + raw
