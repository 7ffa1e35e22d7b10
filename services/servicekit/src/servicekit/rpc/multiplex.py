"""The server's side of many calls over one stream: takes calls in, runs each as its own, sends answers as they come."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import grpc
from penstock.multiplex.v1 import multiplex_pb2 as pb
from penstock.multiplex.v1 import multiplex_pb2_grpc as pb_grpc

from servicekit.rpc.interceptor import CallFailed, Incoming, Method
from servicekit.rpc.outbox import Outbox
from servicekit.rpc.passage import LARGEST_RESPONSE_BYTES, Passage, Window
from servicekit.rpc.wire import DETAILS_KEY

LISTENING: Final = ("penstock-multiplex", "1")
"""What the server sends at once; a caller writes nothing before: a write that fails would hide the status behind it."""

Find = Callable[[str], Method | None]


class Multiplex(pb_grpc.MultiplexServiceServicer):
    """Serves the methods that `find` knows over the streams of all callers."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._streams: set[_Stream] = set()
        self._draining = False

    async def Exchange(self, requests: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Serve one caller's stream until he ends it and everything is answered, or until it breaks."""
        await context.send_initial_metadata((LISTENING,))
        async with asyncio.TaskGroup() as tasks:
            stream = _Stream(self._find, tasks, context.write)
            self._streams.add(stream)
            sender = tasks.create_task(stream.outbox.send())
            try:
                if self._draining:
                    stream.drain()
                async for request in requests:
                    stream.take(request)
                await stream.answered()
                await stream.outbox.empty()
                sender.cancel()
            finally:
                self._streams.discard(stream)

    def drain(self) -> None:
        """Ask every caller, now and from now on, to take new calls elsewhere; those that run are answered."""
        self._draining = True
        for stream in self._streams:
            stream.drain()


class _Stream:
    """The calls of one caller."""

    def __init__(self, find: Find, tasks: asyncio.TaskGroup, write: Callable[[Any], Awaitable[None]]) -> None:
        self._find = find
        self._tasks = tasks
        self._running: dict[int, asyncio.Task[None]] = {}
        self.outbox = Outbox(write, _responses, lambda: len(self._running))
        self._credits: dict[int, Window] = {}

    def take(self, request: pb.ExchangeRequest) -> None:
        """Start what is asked, stop what is no longer wanted."""
        for call in request.calls:
            task = self._tasks.create_task(self._serve(call))
            self._running[call.id] = task
            task.add_done_callback(partial(self._forget, call.id))
        for credit in request.credits:
            if (window := self._credits.get(credit.id)) is not None:
                window.widen(credit.responses)
        for number in request.cancelled:
            if (task_ := self._running.get(number)) is not None:
                task_.cancel()

    def drain(self) -> None:
        """Tell the caller that this server is stopping."""
        self.outbox.put(None, 0)

    async def answered(self) -> None:
        """Return when no call runs."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    async def _serve(self, call: pb.Call) -> None:
        try:
            await self._answer(call)
        except CallFailed as failed:
            details = next((value for key, value in failed.trailing if key == DETAILS_KEY), b"")
            end = pb.End(code=failed.code.value[0], message=failed.message, details=details)
            self.outbox.put(pb.Answer(id=call.id, end=end), len(details))

    def _forget(self, number: int, _: asyncio.Task[None]) -> None:
        self._running.pop(number, None)
        self._credits.pop(number, None)

    async def _answer(self, call: pb.Call) -> None:
        method = self._find(call.method)
        if method is None or method.handler.request_streaming:
            raise CallFailed(grpc.StatusCode.UNIMPLEMENTED, f"{call.method[:200]} is not served here")
        incoming = Incoming(call.authorization, call.timeout_s or None, call.traceparent or None)
        if not method.handler.response_streaming:
            response = _bytes(method, await method.unary(incoming, call.request))
            self.outbox.put(pb.Answer(id=call.id, response=response, end=pb.End()), len(response))
            return
        window = self._credits[call.id] = Window()
        passage = Passage(call.id, window, method.handler.response_serializer or bytes, self.outbox)
        async with aclosing(method.stream(incoming, call.request, passage)) as responses:
            async for each in responses:
                await window.take()
                response = _bytes(method, each)
                self.outbox.put((call.id, response), len(response))
        self.outbox.put(pb.Answer(id=call.id, end=pb.End()), 0)


def _bytes(method: Method, response: Any) -> bytes:
    serialize = method.handler.response_serializer
    written: bytes = response if serialize is None else serialize(response)
    if len(written) > LARGEST_RESPONSE_BYTES:  # as a message it would break the stream, and every other call with it
        raise CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the response has {len(written)} bytes")
    return written


def _responses(items: list[tuple[int, bytes] | pb.Answer | None]) -> pb.ExchangeResponse:
    """Return the message for what is there to say: responses by the number of their call, and answers that say more.

    None stands for the wish to drain.
    """
    message = pb.ExchangeResponse()
    answers = message.answers
    for item in items:
        if item is None:
            message.draining = True
        elif isinstance(item, tuple):
            answers.add(id=item[0], response=item[1])
        else:
            answers.append(item)
    return message
