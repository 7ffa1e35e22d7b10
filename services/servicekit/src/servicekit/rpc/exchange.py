"""The caller's side of many calls over one stream: see multiplex.py for the server's."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final

import grpc
from penstock.multiplex.v1 import multiplex_pb2 as pb
from penstock.multiplex.v1 import multiplex_pb2_grpc as pb_grpc

from servicekit.errors import TimedOut, Unavailable
from servicekit.rpc.multiplex import LISTENING
from servicekit.rpc.outbox import Outbox
from servicekit.rpc.passage import WINDOW
from servicekit.rpc.wire import error_of, from_wire

CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


Take = Callable[[bytes], bool]
"""Is offered a response that the iteration waits for, and says whether it took it; one it did not take is yielded."""


class NotMultiplexing(Exception):
    """The server takes calls only one by one."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A call as it goes out; `timeout_s` in seconds, None for no limit, empty texts for none."""

    method: str
    request: bytes
    timeout_s: float | None
    authorization: str
    traceparent: str


class _Waiting:
    """A call whose answers are awaited."""

    __slots__ = ("ended", "error", "filled", "responses", "take", "taken", "timer")

    def __init__(self, take: Take | None) -> None:
        self.responses: deque[bytes] = deque()
        self.take = take
        self.taken = 0
        """How many responses were taken since the server was last told."""
        self.filled: asyncio.Future[None] | None = None
        self.ended = False
        self.error: Exception | None = None
        self.timer: asyncio.TimerHandle | None = None

    def is_awaited(self) -> bool:
        """Tell whether all that came before has been dealt with, and the next is waited for."""
        return self.filled is not None and not self.responses and not self.ended

    def wake(self) -> None:
        if self.filled is not None and not self.filled.done():
            self.filled.set_result(None)

    def end(self, error: Exception | None) -> None:
        if not self.ended:
            self.ended, self.error = True, error
            self.wake()

    async def more(self) -> None:
        """Return when there is something new."""
        self.filled = asyncio.get_running_loop().create_future()
        try:
            await self.filled
        finally:
            self.filled = None


class Exchange:
    """One stream to one server. When it breaks, its open calls fail as Unavailable and `closing` is true."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Open the stream; it lasts until `close`, `finish` or a failure."""
        self.closing = False
        self._numbers = 0
        self._waiting: dict[int, _Waiting] = {}
        opened: Any = pb_grpc.MultiplexServiceStub(channel).Exchange
        self._call = opened()
        self._outbox = Outbox(self._call.write, _requests, lambda: len(self._waiting))
        self._idle = asyncio.Event()
        self._idle.set()
        nobody = Context()  # the stream serves every caller: it must not carry the first one's identity or span along
        self._reading = asyncio.create_task(self._read(), context=nobody)
        self._sending = asyncio.create_task(self._send(), context=nobody)
        self._ending: asyncio.Task[None] | None = None

    async def call(self, call: Outgoing) -> bytes:
        """Return the response; raise one of servicekit's errors, PeerFailed or NotMultiplexing."""
        number, waiting = self._begin(call)
        try:
            while not waiting.ended:
                await waiting.more()
        finally:
            self._finish_call(number, waiting)
        if waiting.error is not None:
            raise waiting.error
        return waiting.responses[0]

    async def stream(self, call: Outgoing, take: Take | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the responses as they come; errors are those of `call`, and leaving cancels the call.

        `take` must not raise; what it takes never comes to the iteration, which costs many times as much. It is offered
        what has piled up, too: a loop that is behind would otherwise go the dear way, and stay behind.
        """
        number, waiting = self._begin(call, take)
        try:
            while True:
                while waiting.responses:
                    response = waiting.responses.popleft()
                    self._count(number, waiting)
                    if take is None or not take(response):
                        yield response
                if waiting.ended:
                    break
                await waiting.more()
        finally:
            self._finish_call(number, waiting)
        if waiting.error is not None:
            raise waiting.error

    async def finish(self) -> None:
        """Take no new calls, and end the stream when the open ones are answered."""
        self.closing = True
        await self._idle.wait()
        await self._outbox.empty()
        if not self._call.done():
            await self._call.done_writing()
        await self._reading
        await self.close()

    async def close(self) -> None:
        """End the stream now; open calls fail."""
        self.closing = True
        self._call.cancel()
        tasks = [task for task in (self._reading, self._sending, self._ending) if task is not None]
        for task in tasks:
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not asyncio.current_task()), return_exceptions=True)
        self._fail_all(Unavailable("the connection was closed"))

    def _count(self, number: int, waiting: _Waiting) -> None:
        """Count a response as taken, and let the server send more in time."""
        waiting.taken += 1
        if waiting.taken == WINDOW // 2 and not waiting.ended:
            self._outbox.put_patiently(pb.Credit(id=number, responses=waiting.taken))
            waiting.taken = 0

    def _begin(self, call: Outgoing, take: Take | None = None) -> tuple[int, _Waiting]:
        self._numbers += 1
        number, waiting = self._numbers, _Waiting(take)
        self._waiting[number] = waiting
        self._idle.clear()
        if call.timeout_s is not None:
            late = TimedOut("the deadline passed before the answer came")
            waiting.timer = asyncio.get_running_loop().call_later(call.timeout_s, waiting.end, late)
        asked = pb.Call(
            id=number,
            method=call.method,
            timeout_s=call.timeout_s or 0,
            authorization=call.authorization,
            traceparent=call.traceparent,
            request=call.request,
        )
        self._outbox.put(asked, len(call.request))
        return number, waiting

    def _finish_call(self, number: int, waiting: _Waiting) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        if self._waiting.pop(number, None) is not None and not self._call.done():
            self._outbox.put(number, 0)  # nobody answered it yet: it is no longer wanted
        if not self._waiting:
            self._idle.set()

    async def _read(self) -> None:
        try:
            async for message in self._call:
                for answer in message.answers:
                    self._take(answer.id, answer)
                if message.draining and self._ending is None:
                    self._ending = asyncio.create_task(self.finish())
            self._fail_all(Unavailable("the server ended the stream", retry_after_s=1))
        except grpc.aio.AioRpcError as failure:
            self._fail_all(self._broken(failure))
        finally:  # a bug, or nobody would ever answer the calls that are open
            if self._waiting:
                self._fail_all(Unavailable("the stream broke", retry_after_s=1))

    def _broken(self, failure: grpc.aio.AioRpcError) -> Exception:
        """Return what a broken stream means for its calls; a write that fails hides the status behind INTERNAL."""
        if failure.code() is grpc.StatusCode.UNIMPLEMENTED:
            return NotMultiplexing()
        if failure.code() is grpc.StatusCode.INTERNAL:
            return Unavailable("the stream broke", retry_after_s=1)
        return from_wire(failure)

    async def _send(self) -> None:
        try:
            if LISTENING in tuple(await self._call.initial_metadata()):
                await self._outbox.send()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            return  # the stream is over; who reads it learns why

    def _take(self, number: int, answer: pb.Answer) -> None:
        waiting = self._waiting.get(number)
        if waiting is None:
            return
        if answer.HasField("response"):
            response = answer.response
            if waiting.take is not None and waiting.is_awaited() and waiting.take(response):
                self._count(number, waiting)
            else:
                waiting.responses.append(response)
                waiting.wake()
        if answer.HasField("end"):
            del self._waiting[number]
            end = answer.end
            waiting.end(error_of(CODES[end.code], end.message, end.details) if end.code else None)

    def _fail_all(self, error: Exception) -> None:
        self.closing = True
        failed, self._waiting = self._waiting, {}
        for waiting in failed.values():
            waiting.end(error)
        self._idle.set()
        self._sending.cancel()


def _requests(items: list[pb.Call | pb.Credit | int]) -> pb.ExchangeRequest:
    """Return the message for what there is to say; a number is a call that is no longer wanted."""
    request = pb.ExchangeRequest()
    for item in items:
        match item:
            case pb.Call():
                request.calls.append(item)
            case pb.Credit():
                request.credits.append(item)
            case _:
                request.cancelled.append(item)
    return request
