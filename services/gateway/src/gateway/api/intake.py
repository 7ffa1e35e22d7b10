"""Takes a request's body in, as much as is allowed, and refuses the rest early without hanging up on the caller."""

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.types import Receive

from gateway.api.errors import TooLarge

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 64 * 1024 * 1024
"""What a caller may still send after he was refused: one that is cut off while he writes does not see the answer."""


class ClientGone(Exception):
    """The caller closed his connection before his answer was complete."""


async def take(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """Return the body; raise TooLarge as soon as it is known to be, before anything is read if it was announced."""
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        if chunk:
            chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def linger(receive: Receive, headers: Mapping[bytes, bytes]) -> None:
    """Read on for a moment, and forget it, until the caller has sent everything or left.

    A caller who asked whether to go on (`Expect: 100-continue`) has sent nothing, and reading would tell him to.
    """
    if b"expect" in headers:
        return
    size = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while size <= LINGER_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))
    except TimeoutError:
        return


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is too large; at most {limit} bytes are taken")
