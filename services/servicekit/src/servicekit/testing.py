"""What tests of services share: a real server in the process, callers with valid tokens, and waiting."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from servicekit.identity import Identity, Minter, Verifier, acting_as
from servicekit.rpc.interceptor import Authenticate
from servicekit.rpc.server import Service, listen

ALL_SCOPES: Final = frozenset(
    {"models", "embeddings", "ask", "knowledge:read", "knowledge:write", "features:read", "features:write", "admin"}
)
_key = Ed25519PrivateKey.generate()
PRIVATE_KEY_PEM: Final = _key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC_KEY_PEM: Final = _key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
_minter = Minter(PRIVATE_KEY_PEM)


async def authenticate(credential: str, verifier: Verifier = Verifier(PUBLIC_KEY_PEM)) -> Identity:  # noqa: B008  one for the run
    return verifier.verify(credential)


@asynccontextmanager
async def serving(
    *services: Service, authenticate: Authenticate = authenticate, inner: bool = True
) -> AsyncIterator[str]:
    """Run services on a free port of the loopback interface, not `inner` as a door for strangers; yield the address."""
    listening = listen(services, authenticate, "127.0.0.1:0", None, inner=inner)
    await listening.server.start()
    try:
        yield f"127.0.0.1:{listening.port}"
    finally:
        await listening.server.stop(0)


@contextmanager
def caller(
    tenant: str = "acme",
    scopes: Iterable[str] = ALL_SCOPES,
    principal: str = "tester",
    key_id: str = "key-1",
    region: str = "",
) -> Iterator[Identity]:
    """Make the calls inside as this caller, with a token that `serving` accepts."""
    signed = _minter.mint(Identity(tenant, principal, key_id, frozenset(scopes), region))
    with acting_as(signed) as identity:
        yield identity


class Place:
    """Memory that a message lands in: a `servicekit.landed.Landed`."""

    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))

    def __len__(self) -> int:
        return len(self.view)

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def __add__(self, more: bytes) -> "Place":
        raise NotImplementedError


async def eventually(check: Callable[[], Awaitable[bool] | bool], timeout_s: float = 5.0) -> None:
    """Wait until `check` is true; raise AssertionError after `timeout_s` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while True:
        result = check()
        if await result if inspect.isawaitable(result) else result:
            return
        assert loop.time() < end, f"not within {timeout_s} s: {check}"
        await asyncio.sleep(0.01)
