"""What residency needs: a server's model repository and its memory, and a place to keep what was learned."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from servicekit.errors import Unavailable

from inference.core.ports import NOT_LOADED


class LoadFailed(Unavailable):
    """A server does not load the model, because of the model and not of the moment; the message says why."""

    default_reason = NOT_LOADED


class Status(Enum):
    """What a server says of a model in its repository."""

    READY = "ready"
    LOADING = "loading"
    UNLOADING = "unloading"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a server holds, and those of its models as far as they can be told apart."""

    used_bytes: int
    models: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes once it is loaded, in bytes, and how long its loading takes, in seconds."""

    bytes_: int
    load_s: float


class ModelRepository(Protocol):
    """The repository of one server. Every call may raise BackendLost, and TimedOut after its `timeout_s`."""

    async def check(self, model: str) -> None:
        """Raise LoadFailed, naming the file, when the model's files cannot be right; pass where they are not seen."""
        ...

    async def load(self, model: str, timeout_s: float) -> None:
        """Load a model and return once it can be used; raise LoadFailed when the server refuses it."""
        ...

    async def unload(self, model: str, timeout_s: float) -> None:
        """Ask for a model to go; it may still be there on return. Raise LoadFailed when the server refuses."""
        ...

    async def index(self, timeout_s: float) -> Mapping[str, Status]:
        """Return the status of every model that the server knows of."""
        ...

    async def memory(self, timeout_s: float) -> Memory | None:
        """Return what the server holds now, or None where that cannot be measured."""
        ...


Connect = Callable[[str], AbstractAsyncContextManager[ModelRepository]]
"""Opens the repository of the server at an address."""


class FootprintStore(Protocol):
    """Keeps footprints over a restart."""

    async def read(self) -> dict[str, Footprint]:
        """Return what was kept; nothing where there is nothing, or nothing that can be read."""
        ...

    async def write(self, footprints: Mapping[str, Footprint]) -> None:
        """Keep these instead of all before; a failure is logged and not raised."""
        ...
