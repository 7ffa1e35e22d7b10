"""Reaches Triton over OIP gRPC: raw tensor calls, and whether a model is ready."""

import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Self

import grpc
from google.protobuf.message import DecodeError
from servicekit import telemetry
from servicekit.errors import InvalidInput, NotFound, PenstockError, TimedOut, Unavailable
from servicekit.landed import Message
from servicekit.rpc import CallFailed, Link, Metadata
from tritonclient.grpc import service_pb2 as oip

from inference.adapters.shared_tensors import SharedTensors, is_near
from inference.adapters.tensor_memory import Tensors
from inference.adapters.triton_golden import GoldenInvalid, read_golden
from inference.core.ports import (
    BACKEND_FAILED,
    DRAINING,
    GOLDEN_INVALID,
    LOADING,
    NOT_LOADED,
    QUEUE_FULL,
    SILENT,
    BackendLost,
    ModelState,
    NotServing,
)

SERVICE: Final = "/inference.GRPCInferenceService/"
REAL_CODES: Final = ("triton_grpc_error", "true")
"""Without this a failed stream carries a text and no status."""
UNKNOWN_VERSION: Final = re.compile(r"^Request for unknown model: '.*' version (\d+) is not found")
NAMED_VERSION: Final = re.compile(r"^Request for unknown model: '.*' version \d+ ")
log = logging.getLogger(__name__)


class TritonServer:
    """A connection to one Triton server; it comes up, and up again, by itself."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._shared = SharedTensors(address, self.call) if is_near(address) else None

    async def __aenter__(self) -> Self:
        """Open the connection."""
        return self.open()

    async def __aexit__(self, *_: object) -> None:
        """Close the connection; calls that still run fail."""
        await self.close()

    def open(self) -> Self:
        """Make ready; the connection comes up with the first call."""
        self._link = Link(self.address)
        return self

    async def close(self) -> None:
        """Close the connection; calls that still run fail."""
        await self._link.close()

    async def reset(self) -> None:
        """Give a connection up that has fallen silent, and use another; calls that still run fail as if it broke."""
        silent = self._link
        self.open()
        await silent.close()

    async def call(self, method: str, request: bytes, timeout_s: float | None, metadata: Metadata = ()) -> bytes:
        """Return the serialised response of a unary method; raise CallFailed."""
        return await self._link.unary(f"{SERVICE}{method}", request, timeout_s, metadata)

    async def infer(self, request: Message, timeout_s: float, metadata: Metadata = ()) -> bytes:
        """Return the serialised response to a ModelInferRequest; raise CallFailed."""
        if isinstance(request, Tensors) and self._shared is not None:
            answer = await self._shared.infer(request, timeout_s, metadata)
            if answer is not None:
                return answer
        return await self.call("ModelInfer", bytes(request), timeout_s, metadata)

    def stream(self, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the serialised responses to one request over a stream of its own; leaving cancels it."""
        return self._link.stream(f"{SERVICE}ModelStreamInfer", request, timeout_s, (REAL_CODES, *trace_metadata()))


class TritonTensors:
    """Runs one model on bytes; where Triton knows it by another name, the names are swapped on the way."""

    def __init__(self, server: TritonServer, triton_name: str, name: str) -> None:
        """Take the server, the model's name there, and its name in the catalogue."""
        self._server = server
        self._name = name
        renamed = triton_name != name
        # Of a protobuf field that is sent twice the last one counts, so a name is changed by appending it.
        self._ask = _field(1, triton_name.encode()) if renamed else b""
        self._answer = _field(1, name.encode()) if renamed else b""
        self._nested_config = _field(1, self._answer) if renamed else b""
        self._nested_response = _field(2, self._answer) if renamed else b""

    async def infer(self, request: Message, timeout_s: float) -> bytes:
        """Forward a ModelInferRequest."""
        try:
            # a message + b"" is the same object: one that is not renamed is not copied
            response = await self._server.infer(request + self._ask, timeout_s, trace_metadata())
        except CallFailed as error:
            raise translate(error, self._name) from error
        return response + self._answer

    async def metadata(self, request: bytes, timeout_s: float) -> bytes:
        """Forward a ModelMetadataRequest."""
        return await self._call("ModelMetadata", request, timeout_s, self._answer)

    async def config(self, request: bytes, timeout_s: float) -> bytes:
        """Forward a ModelConfigRequest."""
        return await self._call("ModelConfig", request, timeout_s, self._nested_config)

    async def stream(self, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Forward a ModelInferRequest that may have many responses."""
        try:
            async with aclosing(self._server.stream(request + self._ask, timeout_s)) as responses:
                async for response in responses:
                    yield response + self._nested_response
        except CallFailed as error:
            raise translate(error, self._name) from error

    async def _call(self, method: str, request: bytes, timeout_s: float, suffix: bytes) -> bytes:
        try:
            response = await self._server.call(method, request + self._ask, timeout_s, trace_metadata())
        except CallFailed as error:
            raise translate(error, self._name) from error
        return response + suffix


class TritonProber:
    """Looks whether a model is loaded, and reads version, digest and golden cases out of its configuration."""

    def __init__(self, server: TritonServer, triton_name: str, golden: str = "", *, writes: bool = False) -> None:
        """Take the server, the model's name there, golden cases that replace its own, and whether it writes text."""
        self._server = server
        self._name = triton_name
        self._golden = golden
        self._writes = writes
        self._ready = oip.ModelReadyRequest(name=triton_name).SerializeToString()
        self._config = oip.ModelConfigRequest(name=triton_name).SerializeToString()
        self._index = oip.RepositoryIndexRequest().SerializeToString()
        self._read: tuple[Any, ModelState] = None, ModelState(ready=False)

    async def probe(self, timeout_s: float) -> ModelState:
        """Return the state; version, digest and golden are the builder's parameters in config.pbtxt."""
        try:
            answer = await self._server.call("ModelReady", self._ready, timeout_s)
            if not oip.ModelReadyResponse.FromString(answer).ready:
                return ModelState(ready=False, reason=await self._why(timeout_s))
            return self._state(await self._server.call("ModelConfig", self._config, timeout_s))
        except CallFailed as error:
            silent = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
            return ModelState(ready=False, reason=_reason(error), detail=SILENT if silent else "")
        except DecodeError:
            return ModelState(ready=False, reason=BACKEND_FAILED)

    def _state(self, message: bytes) -> ModelState:
        """Return what a configuration says; an unchanged one is not read again, and keeps its golden cases."""
        known, state = self._read
        config = oip.ModelConfigResponse.FromString(message).config  # Triton writes its maps in another order each time
        if config != known:
            state = self._described(config)
            self._read = config, state
        return state

    def _described(self, config: Any) -> ModelState:
        parameters = {name: value.string_value for name, value in config.parameters.items()}
        version, digest = parameters.get("version", ""), full_digest(parameters.get("digest", ""))
        text = self._golden or parameters.get("golden", "")
        try:
            golden = read_golden(text, config, writes=self._writes) if text else None
        except GoldenInvalid as error:
            log.warning("the golden cases of %s cannot be used: %s", self._name, error)
            return ModelState(False, GOLDEN_INVALID, version, digest, detail=str(error))
        return ModelState(True, "", version, digest, golden)

    async def _why(self, timeout_s: float) -> str:
        """Tell a model that is being loaded from one that is not."""
        try:
            index = oip.RepositoryIndexResponse.FromString(
                await self._server.call("RepositoryIndex", self._index, timeout_s)
            )
        except CallFailed:
            return NOT_LOADED  # the repository's calls may be closed to us
        return (
            LOADING if any(each.name == self._name and each.state == "LOADING" for each in index.models) else NOT_LOADED
        )


def translate(error: CallFailed, name: str) -> PenstockError:
    """Return the error kind for a failed call to Triton, which files many failures under UNAVAILABLE."""
    code, details = error.code, error.message
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(f"{name} did not answer in time")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.OUT_OF_RANGE):
        return InvalidInput(details)
    version = UNKNOWN_VERSION.search(details)
    if version:
        return NotFound(f"{name} has no version {version[1]}", reason="version_not_found", field="model_version")
    reason = _reason(error)
    if reason == BACKEND_FAILED:
        # a server that cannot be reached is told once, by the prober, and not by every call that misses it
        level = logging.DEBUG if code is grpc.StatusCode.UNAVAILABLE else logging.WARNING
        log.log(level, "triton failed on %s: %s: %s", name, code.name, details)
        kind = BackendLost if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) else Unavailable
        return kind(f"the server of {name} failed", reason=reason, retry_after_s=1.0)
    # a caller who names a version that is not loaded says nothing about the others
    absent = reason in (NOT_LOADED, DRAINING) and not NAMED_VERSION.search(details)
    kind = NotServing if absent else Unavailable
    return kind(f"{name}: {reason.replace('_', ' ')}", reason=reason, retry_after_s=1.0)


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the trace header for Triton; an unsampled trace sends none, because Triton would record it."""
    parent = telemetry.traceparent()
    return (("traceparent", parent),) if parent else ()


def _reason(error: CallFailed) -> str:
    details = error.message
    if "Exceeds maximum queue size" in details:
        return QUEUE_FULL
    if "Request timeout expired" in details:
        return "queue_timeout"
    if "Server is stopping" in details:
        return DRAINING
    absent = error.code is grpc.StatusCode.NOT_FOUND or "Request for unknown model" in details
    return NOT_LOADED if absent or "is not ready" in details else BACKEND_FAILED


def full_digest(value: str) -> str:
    """Return a digest with its algorithm; the builder leaves that out."""
    return value if not value or value.startswith("sha256:") else f"sha256:{value}"


def _field(number: int, value: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    size, length = len(value), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value
