"""One connection to Redis that all calls of a process share: questions go out at once, answers come back in order."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import hiredis
from servicekit.errors import Unavailable

MOST_WAITING: Final = 10_000
PASSES: Final = 8
"""More than a new connection and its greetings take of a loop."""


class RedisUnavailable(Unavailable):
    """Redis does not answer, answers too late, or with an error."""

    default_reason = "limits_unavailable"

    def __init__(self, why: str) -> None:
        super().__init__(f"limits cannot be counted: {why}", retry_after_s=1)


class ScriptUnknown(Exception):
    """Redis does not have the script of this digest."""


class Wire(asyncio.Protocol):
    """One connection: what is awaited on it, in order. An answer nobody waits for any longer is dropped."""

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[Any]] = deque()
        self.heard_s = 0.0
        self.is_up = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.is_up = True

    def data_received(self, data: bytes) -> None:
        """Hand answers to those who wait, first come first served."""
        self.heard_s = self._loop.time()
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:
                future = self.waiting.popleft()
                if not future.done():
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the interface's signature
        """Tell all who wait that no answer will come."""
        self.is_up = False
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_exception(RedisUnavailable("the connection to Redis is lost"))

    def send(self, packed: bytes) -> "asyncio.Future[Any]":
        """Send a question; its answer comes in the future."""
        assert self._transport is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        self.waiting.append(future)
        self._transport.write(packed)
        return future

    def close(self) -> None:
        """Drop the connection at once."""
        self.is_up = False
        if self._transport is not None:
            self._transport.abort()


class Patience:
    """Acts after some seconds, unless cancelled, and not before the loop has looked several times at what has come.

    An idle loop does that in no time; in a busy one the seconds pass before it has seen what came long ago.
    """

    __slots__ = ("_act", "_handle", "_loop")

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        self._act = act
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._look, PASSES)

    def cancel(self) -> None:
        """Do not act."""
        self._handle.cancel()

    def _look(self, passes: int) -> None:
        if passes:
            self._handle = self._loop.call_soon(self._look, passes - 1)
        else:
            self._act()


class RedisLink:
    """Asks Redis. Every question is answered within `timeout_s` seconds or raises RedisUnavailable.

    A connection is made when there is none; one that is silent for a whole timeout is given up.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        address = urlsplit(url)
        if address.scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("an address of Redis begins with redis://, rediss:// or unix://")
        is_unix = address.scheme == "unix"
        self._path = address.path if is_unix else ""
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 6379
        self._tls = ssl.create_default_context() if address.scheme == "rediss" else None
        database = "" if is_unix else address.path.strip("/")
        self._greeting = _greeting(unquote(address.username or ""), unquote(address.password or ""), int(database or 0))
        self._timeout_s = timeout_s
        self._wire: Wire | None = None
        self._connecting: asyncio.Future[None] | None = None

    async def evalsha(self, digest: str, numkeys: int, *keys_and_arguments: Any) -> Any:
        """Run a script by its digest; raise ScriptUnknown."""
        return await self._ask("EVALSHA", digest, numkeys, *keys_and_arguments)

    async def eval(self, source: str, numkeys: int, *keys_and_arguments: Any) -> Any:
        """Run a script, which Redis then knows."""
        return await self._ask("EVAL", source, numkeys, *keys_and_arguments)

    async def ping(self) -> Any:
        """Find out whether Redis answers."""
        return await self._ask("PING")

    def close(self) -> None:
        """Drop the connection."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def _ask(self, *words: Any) -> Any:
        wire = self._wire
        if wire is None or not wire.is_up:
            wire = await self._connected()
        if len(wire.waiting) >= MOST_WAITING:
            raise RedisUnavailable("too much is asked of Redis at once")
        loop = asyncio.get_running_loop()
        future = wire.send(hiredis.pack_command(words))
        patience = Patience(self._timeout_s, partial(_give_up, wire, future, loop.time()))
        try:
            answer = await future
        finally:
            patience.cancel()
        if isinstance(answer, hiredis.ReplyError):
            raise _refusal(answer)
        return answer

    async def _connected(self) -> Wire:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                patience = Patience(self._timeout_s, lambda: limit.reschedule(loop.time()))
                try:
                    return await self._connected_once()
                finally:
                    patience.cancel()
        except (OSError, TimeoutError) as error:
            raise RedisUnavailable("Redis cannot be reached") from error

    async def _connected_once(self) -> Wire:
        while (wire := self._wire) is None or not wire.is_up:
            if self._connecting is None:
                await self._connect_for_all()
            else:
                await asyncio.shield(self._connecting)
        return wire

    async def _connect_for_all(self) -> None:
        """Connect; all who wait for it go on in the same turn of the loop. When this asker leaves, another tries."""
        shared = self._connecting = asyncio.get_running_loop().create_future()
        try:
            self._wire = await self._connect()
        except (OSError, RedisUnavailable):
            shared.set_exception(ConnectionError())
            shared.exception()  # it may be that nobody waits
            raise
        finally:
            self._connecting = None
            if not shared.done():
                shared.set_result(None)

    async def _connect(self) -> Wire:
        loop, is_ready = asyncio.get_running_loop(), False
        if self._path:
            _, wire = await loop.create_unix_connection(Wire, self._path)
        else:
            _, wire = await loop.create_connection(Wire, self._host, self._port, ssl=self._tls)
        try:
            for words in self._greeting:
                if isinstance(await wire.send(hiredis.pack_command(words)), hiredis.ReplyError):
                    raise RedisUnavailable(f"Redis refuses {words[0]}")
            is_ready = True
        finally:
            if not is_ready:
                wire.close()
        return wire


def _greeting(user: str, password: str, database: int) -> list[tuple[Any, ...]]:
    greeting: list[tuple[Any, ...]] = []
    if password:
        greeting.append(("AUTH", user, password) if user else ("AUTH", password))
    if database:
        greeting.append(("SELECT", str(database)))
    return greeting


def _give_up(wire: Wire, future: "asyncio.Future[Any]", asked_s: float) -> None:
    """Let a question be unanswered."""
    if not future.done():
        future.set_exception(RedisUnavailable("Redis answers too late"))
        if wire.heard_s < asked_s:
            wire.close()


def _refusal(answer: Exception) -> Exception:
    text = str(answer)
    if text.startswith("NOSCRIPT"):
        return ScriptUnknown(text)
    return RedisUnavailable(f"Redis answers {text.split(' ', 1)[0]}")
