"""Reaches Triton over OIP gRPC: raw tensor calls, and whether a model is ready."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Self

import grpc
from google.protobuf.message import DecodeError
from servicekit import telemetry
from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable
from tritonclient.grpc import service_pb2 as oip

from inference.core.ports import BACKEND_FAILED, NOT_LOADED, ModelState

LARGEST_MESSAGE_BYTES: Final = 64 * 1024 * 1024
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # this one bounds an attempt to connect
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
)
SERVICE: Final = "/inference.GRPCInferenceService/"
REAL_CODES: Final = ("triton_grpc_error", "true")
"""Without this a failed stream carries a text and no status."""
log = logging.getLogger(__name__)


class TritonServer:
    """A connection to one Triton server; it comes up, and up again, by itself."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def __aenter__(self) -> Self:
        """Open the connection."""
        channel: Any = grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        self._channel = channel
        self.infer = channel.unary_unary(f"{SERVICE}ModelInfer")
        self.stream_infer = channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        self.metadata = channel.unary_unary(f"{SERVICE}ModelMetadata")
        self.config = channel.unary_unary(f"{SERVICE}ModelConfig")
        self.ready = channel.unary_unary(f"{SERVICE}ModelReady")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection; calls that still run fail."""
        await self._channel.close(grace=None)

    async def stream(self, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the serialised responses to one request over a stream of its own; leaving cancels it."""
        call = self.stream_infer(timeout=timeout_s, metadata=(REAL_CODES, *trace_metadata()))
        try:
            await call.write(request)
            await call.done_writing()
            async for response in call:
                yield response
        finally:
            call.cancel()


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

    async def infer(self, request: bytes, timeout_s: float) -> bytes:
        """Forward a ModelInferRequest."""
        return await self._call(self._server.infer, request, timeout_s, self._answer)

    async def metadata(self, request: bytes, timeout_s: float) -> bytes:
        """Forward a ModelMetadataRequest."""
        return await self._call(self._server.metadata, request, timeout_s, self._answer)

    async def config(self, request: bytes, timeout_s: float) -> bytes:
        """Forward a ModelConfigRequest."""
        return await self._call(self._server.config, request, timeout_s, self._nested_config)

    async def stream(self, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Forward a ModelInferRequest that may have many responses."""
        try:
            async with aclosing(self._server.stream(request + self._ask, timeout_s)) as responses:
                async for response in responses:
                    yield response + self._nested_response
        except grpc.aio.AioRpcError as error:
            raise translate(error, self._name) from error

    async def _call(self, method: Any, request: bytes, timeout_s: float, suffix: bytes) -> bytes:
        try:
            # bytes + b"" is the same object: an unrenamed message is not copied
            response: bytes = await method(request + self._ask, timeout=timeout_s, metadata=trace_metadata())
        except grpc.aio.AioRpcError as error:
            raise translate(error, self._name) from error
        return response + suffix


class TritonProber:
    """Looks whether a model is loaded, and reads version and digest out of its configuration."""

    def __init__(self, server: TritonServer, triton_name: str) -> None:
        self._server = server
        self._ready = oip.ModelReadyRequest(name=triton_name).SerializeToString()
        self._config = oip.ModelConfigRequest(name=triton_name).SerializeToString()

    async def probe(self, timeout_s: float) -> ModelState:
        """Return the state; `version` and `digest` are the builder's parameters in config.pbtxt."""
        try:
            answer = await self._server.ready(self._ready, timeout=timeout_s)
            if not oip.ModelReadyResponse.FromString(answer).ready:
                return ModelState(ready=False, reason=NOT_LOADED)
            config = oip.ModelConfigResponse.FromString(await self._server.config(self._config, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            return ModelState(ready=False, reason=_reason(error))
        except DecodeError:
            return ModelState(ready=False, reason=BACKEND_FAILED)
        parameters = config.config.parameters
        return ModelState(
            ready=True,
            version=parameters["version"].string_value if "version" in parameters else "",
            digest=_digest(parameters["digest"].string_value) if "digest" in parameters else "",
        )


def translate(error: grpc.aio.AioRpcError, name: str) -> PenstockError:
    """Return the error kind for a failed call to Triton, which files many failures under UNAVAILABLE."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(f"{name} did not answer in time")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.OUT_OF_RANGE):
        return InvalidInput(details)
    reason = _reason(error)
    if reason == BACKEND_FAILED:
        # a server that cannot be reached is told once, by the prober, and not by every call that misses it
        level = logging.DEBUG if code is grpc.StatusCode.UNAVAILABLE else logging.WARNING
        log.log(level, "triton failed on %s: %s: %s", name, code.name, details)
        return Unavailable(f"the server of {name} failed", reason=reason, retry_after_s=1.0)
    return Unavailable(f"{name}: {reason.replace('_', ' ')}", reason=reason, retry_after_s=1.0)


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the trace header for Triton; an unsampled trace sends none, because Triton would record it."""
    parent = telemetry.traceparent()
    return (("traceparent", parent),) if parent else ()


def _reason(error: grpc.aio.AioRpcError) -> str:
    details = error.details() or ""
    if "Exceeds maximum queue size" in details:
        return "queue_full"
    if "Request timeout expired" in details:
        return "queue_timeout"
    absent = error.code() is grpc.StatusCode.NOT_FOUND or "Request for unknown model" in details
    return NOT_LOADED if absent or "is not ready" in details else BACKEND_FAILED


def _digest(value: str) -> str:
    return value if not value or value.startswith("sha256:") else f"sha256:{value}"


def _field(number: int, value: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    size, length = len(value), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value
