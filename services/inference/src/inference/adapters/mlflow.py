"""Finds out what version of a model an MLflow registry means by `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import orjson
from servicekit.errors import InvalidInput, NotFound, Unavailable

from inference.core.version_ports import Imported

URI: Final = re.compile(r"models:/([^/@:]{1,256})(?:@([A-Za-z0-9_-]{1,255})|/([0-9]{1,9}))\Z")
API: Final = "/api/2.0/mlflow"
TIMEOUT_S: Final = 10.0
LARGEST_ANSWER_BYTES: Final = 1024 * 1024
LONGEST_SOURCE: Final = 512
DIGEST_TAG: Final = "digest"
"""The tag of a model version that holds the digest of its content, `sha256:` or the digits alone."""
BARE_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


class MlflowRegistry:
    """Reads an MLflow model registry over its REST API; it writes nothing there."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, token: str = "") -> AsyncIterator["MlflowRegistry"]:
        """Take the tracking server's address, and the bearer token it wants, if it wants one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            yield cls(session, url)

    async def resolve(self, uri: str) -> Imported:
        """Return the version that a URI stands for now; an alias may stand for another one later."""
        matched = URI.match(uri)
        if matched is None:
            raise InvalidInput("a model of MLflow is models:/NAME@ALIAS or models:/NAME/VERSION", field="uri")
        name, alias, version = matched.groups()
        if alias:
            found = await self._get("registered-models/alias", {"name": name, "alias": alias})
        else:
            found = await self._get("model-versions/get", {"name": name, "version": version})
        return _imported(uri, found.get("model_version"))

    async def _get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        try:
            async with self._session.get(f"{self._url}{API}/{path}", params=query, allow_redirects=False) as response:
                body = await _body(response)
                if response.status in {400, 404}:
                    raise _refused(body)
                if response.status != 200:
                    raise _failed(f"it answered with status {response.status}")
                found = orjson.loads(body)
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise _failed(type(error).__name__) from error
        if not isinstance(found, dict):
            raise _failed("its answer is no object")
        return found


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LARGEST_ANSWER_BYTES:
            raise _failed("its answer is too long")
    return bytes(body)


def _imported(uri: str, found: Any) -> Imported:
    if not (isinstance(found, dict) and str(found.get("version", "")).isdigit()):
        raise _failed("its answer has no version")
    if found.get("status", "READY") != "READY":
        raise InvalidInput(f"that version is {found['status']} in MLflow", reason="not_ready", field="uri")
    tags = {each.get("key"): each.get("value", "") for each in found.get("tags") or [] if isinstance(each, dict)}
    digest = str(tags.get(DIGEST_TAG, ""))
    parts = [f"mlflow {uri}", f"version {found['version']}", f"run {found.get('run_id') or 'none'}"]
    return Imported(
        str(found["version"]),
        f"sha256:{digest}" if BARE_DIGEST.match(digest) else digest,
        ", ".join([*parts, str(found.get("source") or "")]).rstrip(", ")[:LONGEST_SOURCE],
    )


def _refused(body: bytes) -> InvalidInput | NotFound:
    try:
        told = orjson.loads(body)
        code, message = str(told["error_code"]), str(told["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return NotFound("MLflow has no such model, version or alias", reason="version_not_found", field="uri")
    if code == "RESOURCE_DOES_NOT_EXIST" or "not found" in message:
        return NotFound(message, reason="version_not_found", field="uri")
    return InvalidInput(message, field="uri")


def _failed(why: str) -> Unavailable:
    return Unavailable(f"MLflow cannot be asked: {why}", reason="mlflow_failed", retry_after_s=1.0)
