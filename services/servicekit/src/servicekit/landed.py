"""Large messages that are received where they are to be used, in memory that a service provides."""

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

LEAST_LANDED_BYTES: Final = 1024 * 1024
"""What is smaller is put together as any message is."""


class Landed(Protocol):
    """A message in memory of the service's own, and what was appended to it; it stays while anybody refers to it."""

    @property
    def view(self) -> memoryview:
        """The message as it was received."""
        ...

    def __len__(self) -> int: ...

    def __bytes__(self) -> bytes: ...

    def __add__(self, more: bytes) -> "Landed":
        """Return the same message with something appended, which is not copied."""
        ...


Message = bytes | Landed
MessageT = TypeVar("MessageT", bound=Message)
Land = Callable[[int], Landed | None]
"""Returns where a message of so many bytes may be received, or None where there is no room."""
