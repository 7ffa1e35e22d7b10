"""Follows the pods of a Kubernetes Service through its EndpointSlices: those that are ready and stay."""

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from inference.adapters.http_client import Connection, HttpFailed

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 10.0
WATCH_S: Final = 60
"""How long the API server keeps a watch open: one that is dead without a sign is noticed a little later."""
LARGEST_BYTES: Final = 16 * 1024 * 1024
SHORTEST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
UNREADABLE: Final = (HttpFailed, OSError, TimeoutError, ValueError, KeyError, TypeError, AttributeError)
"""What an API server can do: be away, answer with an error, or answer with what is no list of slices."""
PORTS: Final = {"http": 80, "https": 443}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """Where the API server is, and the files of the pod's service account; the token is read anew for each request."""

    url: str
    token_file: Path
    ca_file: Path


class KubernetesAddresses:
    """The ready pods of one Service; needs get, list and watch on endpointslices in its namespace.

    A pod that is being deleted is `terminating` in its slice at once, long before it is gone.
    """

    def __init__(self, access: ClusterAccess, namespace: str, service: str, port: int) -> None:
        """Take the Service, and the port of its pods."""
        parts = urlsplit(access.url)
        self._access = access
        self._name = f"{namespace}/{service}"
        self._port = port
        self._host, self._host_port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        self._tls = parts.scheme == "https"
        self._place = parts.netloc
        selector = quote(f"kubernetes.io/service-name={service}", safe="")
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace)}/endpointslices?labelSelector={selector}"

    async def watch(self) -> AsyncGenerator[frozenset[str], None]:
        """Yield the addresses, first as they are and then at each change; while they are unknown the last ones stay."""
        last: frozenset[str] | None = None
        pause_s = SHORTEST_PAUSE_S
        while True:
            try:
                async with aclosing(self._listed_and_watched()) as changes:
                    async for found in changes:
                        pause_s = SHORTEST_PAUSE_S
                        if found != last:
                            last = found
                            yield found
                continue
            except UNREADABLE as error:
                log.warning("the endpoints of %s cannot be read: %s", self._name, _short(error))
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _listed_and_watched(self) -> AsyncGenerator[frozenset[str], None]:
        """Yield the addresses after a list, and after each event of the watch that begins there."""
        listed = await self._list()
        slices = {each["metadata"]["name"]: each for each in listed["items"]}
        yield self._addresses(slices)
        async with aclosing(self._events(listed["metadata"]["resourceVersion"])) as events:
            async for event in events:
                if event["type"] == "ERROR":
                    return  # the version is too old: list again
                if event["type"] == "BOOKMARK":
                    continue
                name = event["object"]["metadata"]["name"]
                if event["type"] == "DELETED":
                    slices.pop(name, None)
                else:
                    slices[name] = event["object"]
                yield self._addresses(slices)

    def _addresses(self, slices: dict[str, Any]) -> frozenset[str]:
        return frozenset(address for each in slices.values() for address in self._of_slice(each))

    def _of_slice(self, each: dict[str, Any]) -> Iterator[str]:
        for endpoint in each.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            # a missing `ready` means that it is
            if conditions.get("ready") is False or conditions.get("terminating"):
                continue
            for address in endpoint.get("addresses") or ():
                yield f"[{address}]:{self._port}" if ":" in address else f"{address}:{self._port}"

    async def _list(self) -> Any:
        body = bytearray()
        async with aclosing(self._get(self._path, ANSWER_TIMEOUT_S)) as parts:
            async for part in parts:
                body += part
                if len(body) > LARGEST_BYTES:
                    raise ValueError("the list is too long")
        return orjson.loads(body)

    async def _events(self, version: str) -> AsyncGenerator[Any, None]:
        path = (
            f"{self._path}&watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}&resourceVersion={quote(version)}"
        )
        rest = b""
        async with aclosing(self._get(path, WATCH_S + ANSWER_TIMEOUT_S)) as parts:
            async for part in parts:
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    yield orjson.loads(line)
                if len(rest) > LARGEST_BYTES:
                    raise ValueError("an event is too long")

    async def _get(self, path: str, silence_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the body of an answer, with at most `silence_s` seconds between its parts."""
        token = await asyncio.to_thread(self._access.token_file.read_text, "ascii")
        lines = [f"GET {path} HTTP/1.1", f"Host: {self._place}", f"Authorization: Bearer {token.strip()}"]
        lines += ["Accept: application/json", "User-Agent: penstock", "", ""]
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            tls = (
                await asyncio.to_thread(ssl.create_default_context, cafile=self._access.ca_file) if self._tls else None
            )
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, self._host, self._host_port, ssl=tls)
        try:
            head = await connection.request(["\r\n".join(lines).encode("ascii")], ANSWER_TIMEOUT_S)
            if head.status != 200:
                raise HttpFailed(f"the API server answered {head.status}")
            while part := await connection.read(silence_s):
                yield part
        finally:
            connection.close()


def _short(error: Exception) -> str:
    """Return what an error says, without what may stand in its message besides."""
    return str(error) if type(error) is HttpFailed else type(error).__name__
