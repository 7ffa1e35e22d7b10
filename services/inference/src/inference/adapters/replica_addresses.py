"""Tells at which addresses a server is: those that are written down, or those a DNS name stands for."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

LOOKUP_PERIOD_S: Final = 2.0
LOOKUP_TIMEOUT_S: Final = 5.0
MOST_ADDRESSES: Final = 1000
log = logging.getLogger(__name__)


class DnsAddresses:
    """The addresses of a name with a port, such as a headless Service: looked up again every two seconds.

    A name that is not known has no addresses; while it cannot be looked up the last ones stay.
    """

    def __init__(
        self,
        name: str,
        period_s: float = LOOKUP_PERIOD_S,
        look_up: Callable[[str, int], Awaitable[list[str]]] | None = None,
    ) -> None:
        """Take `host:port`; `look_up` replaces the system's resolver."""
        self._name, _, port = name.rpartition(":")
        self._port = int(port)
        self._period_s = period_s
        self._look_up = look_up or resolve

    async def watch(self) -> AsyncGenerator[frozenset[str], None]:
        """Yield the addresses, first as they are and then at each change."""
        last: frozenset[str] | None = None
        while True:
            found = await self._found()
            if found is not None and found != last:
                last = found
                yield found
            await asyncio.sleep(self._period_s)

    async def _found(self) -> frozenset[str] | None:
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                hosts = await self._look_up(self._name, self._port)
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
                return frozenset()
            log.warning("%s cannot be looked up: %s", self._name, error)
            return None
        except (OSError, TimeoutError, UnicodeError) as error:  # the last one: no host can have such a name
            log.warning("%s cannot be looked up: %s", self._name, type(error).__name__)
            return None
        return frozenset(f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}" for host in hosts)


async def resolve(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host by the system's resolver; raise OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(sockaddr[0]) for *_, sockaddr in found})[:MOST_ADDRESSES]
