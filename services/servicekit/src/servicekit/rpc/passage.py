"""How much a streaming call may send, and the short way there past the iteration of its method."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from servicekit.rpc.outbox import Outbox

WINDOW: Final = 64
"""How many responses of a call may be under way before its caller has taken the first."""

LARGEST_RESPONSE_BYTES: Final = 63 * 1024 * 1024


class Window:
    """How many more responses a call may send."""

    __slots__ = ("_wider", "left")

    def __init__(self) -> None:
        self.left = WINDOW
        self._wider = asyncio.Event()

    async def take(self) -> None:
        """Return when one more may be sent, and count it."""
        while self.left <= 0:
            self._wider.clear()
            await self._wider.wait()
        self.left -= 1

    def widen(self, responses: int) -> None:
        """Let so many more be sent."""
        self.left += responses
        self._wider.set()


class Passage:
    """Sends responses of a streaming method past its iteration; a method gets it in the place of gRPC's context.

    It may be used while the method waits for what it answers with: everything it has yielded is then on its way.
    """

    __slots__ = ("_number", "_outbox", "_serialize", "_window")

    def __init__(self, number: int, window: Window, serialize: Callable[[Any], bytes], outbox: Outbox) -> None:
        """Take the call's number and window, what makes bytes of a response, and where they go."""
        self._number = number
        self._window = window
        self._serialize = serialize
        self._outbox = outbox

    def send(self, response: Any) -> bool:
        """Send a response; False when that cannot be now, and it has to be yielded."""
        if self._window.left <= 0:
            return False
        written = self._serialize(response)
        if len(written) > LARGEST_RESPONSE_BYTES:
            return False
        self._window.left -= 1
        self._outbox.put((self._number, written), len(written))
        return True
