"""Hangs up on connections whose request's head does not come: they would be held open for nothing, and cost nothing."""

import asyncio
import math
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PunctualProtocol(HttpToolsProtocol):
    """Gives a head `head_s` seconds, from the connection or from its first byte; a body has its request's deadline.

    One timer for each connection looks now and then: requests that are in time cost it nothing but a note.
    """

    head_s: ClassVar[float] = 20.0
    _head_since_s: float
    _looks: asyncio.TimerHandle

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._head_since_s = self.loop.time()
        self._looks = self.loop.call_later(self.head_s, self._look)

    def on_message_begin(self) -> None:
        """Begin to wait for the head of which the first byte is there."""
        super().on_message_begin()
        self._head_since_s = self.loop.time()

    def on_headers_complete(self) -> None:
        """Wait no more."""
        self._head_since_s = math.inf
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._looks.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        left_s = self._head_since_s + self.head_s - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            self._looks = self.loop.call_later(min(left_s, self.head_s), self._look)
