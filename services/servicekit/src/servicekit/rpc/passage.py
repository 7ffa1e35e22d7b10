"""The short way of a streaming method's responses, past its iteration."""

from collections.abc import Callable
from typing import Any, Final, Protocol

LARGEST_RESPONSE_BYTES: Final = 63 * 1024 * 1024


class Answering(Protocol):
    """A call that is being answered."""

    def may_send(self) -> bool:
        """Tell whether what is sent now goes out at once, or begins to."""
        ...

    def respond(self, response: bytes) -> None:
        """Send a response."""
        ...


class Passage:
    """Sends responses of a streaming method past its iteration; a method gets it in the place of gRPC's context.

    It may be used while the method waits for what it answers with: everything it has yielded is then on its way.
    """

    __slots__ = ("_call", "_serialize")

    def __init__(self, call: Answering, serialize: Callable[[Any], bytes]) -> None:
        """Take the call, and what makes bytes of a response."""
        self._call = call
        self._serialize = serialize

    def send(self, response: Any) -> bool:
        """Send a response; False when that cannot be now, and it has to be yielded."""
        if not self._call.may_send():
            return False
        written = self._serialize(response)
        if len(written) > LARGEST_RESPONSE_BYTES:
            return False
        self._call.respond(written)
        return True
