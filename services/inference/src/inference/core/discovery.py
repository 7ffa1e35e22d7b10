"""Keeps the replicas of models in step with the addresses at which their server can be reached."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from inference.core.ports import Addresses
from inference.core.replica import Backend, Replica, Server, Timing
from inference.core.replicas import Replicas

LONGEST_GOODBYE_S: Final = 600.0
GOODBYE_PERIOD_S: Final = 0.2
USUAL: Final = Timing()
log = logging.getLogger(__name__)


class Connection(Protocol):
    """A connection to one address."""

    async def close(self) -> None:
        """Close it; calls that still run fail."""
        ...

    async def reset(self) -> None:
        """Open it anew; calls that still run fail."""
        ...


class Listener(Protocol):
    """Wants to know which addresses there are."""

    def joined(self, address: str) -> None:
        """Learn of a new address."""
        ...

    def left(self, address: str) -> None:
        """Learn that an address gets nothing new."""
        ...


C = TypeVar("C", bound=Connection)


class Discovery(Generic[C]):
    """The addresses of one server of the catalogue: each has one connection, and a replica of every model."""

    def __init__(self, name: str, connect: Callable[[str], C], timing: Timing = USUAL) -> None:
        """Take the server's name in the catalogue and what opens a connection."""
        self._name = name
        self._connect = connect
        self._timing = timing
        self._there: dict[str, tuple[Server, C]] = {}
        self._listeners: list[Listener] = []
        self._models: list[tuple[Replicas, Callable[[C], Backend]]] = []

    def tell(self, listener: Listener) -> None:
        """Tell somebody of the addresses there are and of every change."""
        self._listeners.append(listener)
        for address in self._there:
            listener.joined(address)

    def serve(self, replicas: Replicas, backend: Callable[[C], Backend]) -> None:
        """Have a model's replicas at these addresses."""
        self._models.append((replicas, backend))
        for server, connection in self._there.values():
            replicas.join(Replica(replicas.model, server, backend(connection), timing=self._timing))

    def apply(self, addresses: frozenset[str]) -> list[tuple[Server, C]]:
        """Go over to these addresses; return those that get nothing new any more, to be closed when they are idle."""
        gone = [self._there.pop(address) for address in sorted(self._there.keys() - addresses)]
        for server, _ in gone:
            for replicas, _backend in self._models:
                replicas.leave(server.address)
            for listener in self._listeners:
                listener.left(server.address)
        for address in sorted(addresses - self._there.keys()):
            connection = self._connect(address)
            server = Server(address, connection.reset)
            self._there[address] = server, connection
            for replicas, backend in self._models:
                replicas.join(Replica(replicas.model, server, backend(connection), timing=self._timing))
            for listener in self._listeners:
                listener.joined(address)
        return gone

    async def follow(self, addresses: Addresses) -> None:
        """Keep in step until cancelled."""
        async with asyncio.TaskGroup() as goodbyes:
            async for current in addresses.watch():
                log.info("server %s is at %s", self._name, ", ".join(sorted(current)) or "no address")
                for server, connection in self.apply(current):
                    goodbyes.create_task(_say_goodbye(server, connection))

    async def close(self) -> None:
        """Close every connection."""
        for _, connection in self._there.values():
            await connection.close()


async def _say_goodbye(server: Server, connection: Connection) -> None:
    """Let what runs there end, and close the connection."""
    try:
        async with asyncio.timeout(LONGEST_GOODBYE_S):
            while server.outstanding:  # noqa: ASYNC110 - an event would cost every request
                await asyncio.sleep(GOODBYE_PERIOD_S)
    except TimeoutError:
        log.warning(
            "%s still had %d requests %.0f s after it left", server.address, server.outstanding, LONGEST_GOODBYE_S
        )
    finally:
        await connection.close()
