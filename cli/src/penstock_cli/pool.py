"""Calls the inference pool itself, past the gateway: for operators, who have the key that signs internal tokens."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
from servicekit import deadline, identity
from servicekit.errors import PenstockError
from servicekit.identity import Identity, Minter
from servicekit.rpc import Channel, PeerFailed
from servicekit.rpc.wire import from_wire, of_library

from penstock_cli.client import CallFailed
from penstock_cli.settings import Settings
from penstock_cli.stack.table import load_processes

PATIENCE_S: Final = 10.0
LARGE: Final = tuple((f"grpc.max_{way}_message_length", 64 * 1024 * 1024) for way in ("receive", "send"))
OPERATOR: Final = Identity("operator", "penstock-cli", "", frozenset({"admin", "models"}))


class PoolClient:
    """Calls of the pool, each over a connection of its own."""

    def __init__(self, settings: Settings) -> None:
        """Take the address and the key from the settings: the local stack's where they name none."""
        self._address = settings.pool or _local_address(settings)
        self._key_file = settings.identity_key or settings.state / "keys" / "identity.pem"

    def call(self, stub: Any, method: str, request: Any) -> Any:
        """Return the response of a method of a generated stub class; raise CallFailed."""
        minter = Minter(_read(self._key_file))
        with identity.acting_as(minter.mint(OPERATOR)):
            try:
                return asyncio.run(self._call(stub, method, request))
            except (PenstockError, PeerFailed) as error:
                raise CallFailed(f"the pool at {self._address}: {error}") from error

    def exchange(self, stub: Any, method: str, requests: Iterator[Any], take: Callable[[Any], None]) -> None:
        """Call a method that takes and answers with a stream, and hand over each answer; raise CallFailed.

        A request that cannot be made ends what is sent; those before it are answered.
        """
        failed: list[CallFailed] = []

        def sent() -> Iterator[Any]:
            try:
                yield from requests
            except CallFailed as error:
                failed.append(error)

        bearer = (("authorization", f"Bearer {Minter(_read(self._key_file)).mint(OPERATOR).token}"),)
        try:
            with grpc.insecure_channel(self._address, options=LARGE) as channel:
                for answer in getattr(stub(channel), method)(sent(), metadata=bearer):
                    take(answer)
        except grpc.RpcError as error:
            raise CallFailed(f"the pool at {self._address}: {from_wire(of_library(error))}") from error
        if failed:
            raise failed[0]

    async def _call(self, stub: Any, method: str, request: Any) -> Any:
        async with Channel(self._address) as channel:
            with deadline.within(PATIENCE_S):
                return await channel.call(getattr(stub(channel.grpc), method), request)


def _local_address(settings: Settings) -> str:
    pool = next(process for process in load_processes(settings) if process.name == "inference")
    return f"127.0.0.1:{pool.ports['grpc']}"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CallFailed(
            f"{file}: {error.strerror}; the pool is asked with the key that internal tokens are signed with"
        ) from error
