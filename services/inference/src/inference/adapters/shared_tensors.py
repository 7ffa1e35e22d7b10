"""Has one Triton read tensors where they were received, in memory that both have."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import grpc
from servicekit.oip import fields, tag_and_size
from servicekit.rpc import CallFailed, CallLost, Metadata
from servicekit.telemetry.metrics import counter
from tritonclient.grpc import service_pb2 as oip

from inference.adapters.tensor_memory import TensorMemory, Tensors

LEAST_SHARED_BYTES: Final = 64 * 1024
DATATYPE, INPUT, CONTENTS = 2, 5, 7
BYTEWISE: Final = frozenset({b"BOOL", b"INT8", b"UINT8", b"BYTES"})
"""Datatypes whose values may lie anywhere; others begin at a multiple of eight."""

WIDEST: Final = 8
REGISTER_TIMEOUT_S: Final = 2.0
RETRY_S: Final = 30.0
UNKNOWN_REGION: Final = "Unable to find shared memory region"
READ = counter(
    "penstock_inference_shared_tensor_requests", "Large requests to Tritons on this machine, by their way", ("way",)
)
SHARED, WIRE = READ.labels("shared"), READ.labels("wire")
log = logging.getLogger(__name__)

Call = Callable[[str, bytes, float | None, Metadata], Coroutine[Any, Any, bytes]]
"""Calls a method of OIP with a serialised request, within so many seconds; raises CallFailed."""


class SharedTensors:
    """What one Triton knows of the memory.

    A request that Triton reads there is not cancelled and has no deadline: that would be answered at once, while the
    backend may go on reading. It holds its block until Triton has answered. Where the connection ends without an
    answer, Triton may still be at work, and the block is held until it has started anew: it then knows no memory.
    """

    def __init__(self, address: str, call: Call) -> None:
        """Take where the Triton is, and how to call it."""
        self._address = address
        self._call = call
        self._known = False
        self._asking = asyncio.Lock()
        self._not_before = 0.0
        self._uncertain: list[Tensors] = []
        self._running: set[asyncio.Task[bytes]] = set()

    async def infer(self, request: Tensors, timeout_s: float, metadata: Metadata = ()) -> bytes | None:
        """Return the ModelInferResponse, or None when the request has to go over the wire; raise CallFailed."""
        asked = refer(request)
        try:
            async with asyncio.timeout(timeout_s):
                if asked is not None and await self._makes_known(request.memory):
                    return await self._read_there(request, asked, metadata)
        except TimeoutError as error:
            late = "the deadline passed before the answer came"
            raise CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, late) from error
        except CallFailed as failed:
            if not failed.message.startswith(UNKNOWN_REGION):
                raise
            self._known = False
        WIRE.inc()
        return None

    async def _read_there(self, request: Tensors, asked: bytes, metadata: Metadata) -> bytes:
        running = asyncio.create_task(self._call("ModelInfer", asked, None, metadata))
        self._running.add(running)
        running.add_done_callback(lambda ended: self._over(ended, request))
        SHARED.inc()
        try:
            return await asyncio.shield(running)
        finally:
            del running  # it holds the error, whose traceback would hold it and the request

    def _over(self, ended: asyncio.Task[bytes], request: Tensors) -> None:
        self._running.discard(ended)
        if ended.cancelled() or isinstance(ended.exception(), CallLost):
            self._known = False
            self._uncertain.append(request)

    async def _makes_known(self, memory: TensorMemory) -> bool:
        """Tell whether Triton knows the memory, after telling it where that is needed."""
        if self._known:
            return True
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if not self._known and now >= self._not_before:
                try:
                    await self._register(memory)
                    self._known = True
                except CallFailed as failed:
                    if failed.code is not grpc.StatusCode.UNAVAILABLE:  # the call itself will say that it is not there
                        self._not_before = now + RETRY_S
                        log.warning("%s reads no tensors where they are: %s", self._address, failed.message)
            return self._known

    async def _register(self, memory: TensorMemory) -> None:
        status = oip.SystemSharedMemoryStatusRequest(name=memory.name).SerializeToString()
        try:
            await self._call("SystemSharedMemoryStatus", status, REGISTER_TIMEOUT_S, ())
        except CallFailed as failed:
            if failed.code is not grpc.StatusCode.NOT_FOUND:
                raise
        else:  # it is the process that it was
            return
        self._uncertain.clear()
        region = oip.SystemSharedMemoryRegisterRequest(name=memory.name, key=f"/{memory.name}", byte_size=memory.size)
        await self._call("SystemSharedMemoryRegister", region.SerializeToString(), REGISTER_TIMEOUT_S, ())


def is_near(address: str) -> bool:
    """Tell whether an address is this machine's own, so that what listens there may have the same memory."""
    return address.startswith(("127.", "localhost:", "[::1]:"))


def refer(request: Tensors) -> bytes | None:
    """Return a ModelInferRequest that says where the large tensors lie; None when none can be read there."""
    message, inputs, contents, rest = request.view, [], [], []
    for number, start, end in fields(message):
        if number == INPUT:
            inputs.append(bytes(message[start:end]))
        elif number == CONTENTS:
            contents.append((start, end))
        else:
            rest.append(tag_and_size(number, end - start) + bytes(message[start:end]))
    if len(inputs) != len(contents):
        return None
    sent = list(rest)
    raw: list[bytes] = []
    for each, (start, end) in zip(inputs, contents, strict=True):
        more = b""
        if end - start >= LEAST_SHARED_BYTES and _fits(each, request.start + start):
            more = _place(request.memory.name, request.start + start, end - start)
        else:
            raw += (tag_and_size(CONTENTS, end - start), bytes(message[start:end]))
        sent += (tag_and_size(INPUT, len(each) + len(more)), each, more)
    return b"".join((*sent, *raw, request.more)) if len(raw) < 2 * len(inputs) else None


def _fits(tensor: bytes, at: int) -> bool:
    """Tell whether the values of an InferInputTensor may lie there."""
    named = [tensor[start:end] for number, start, end in fields(tensor) if number == DATATYPE]
    return at % WIDEST == 0 or (bool(named) and named[-1] in BYTEWISE)


def _place(memory: str, at: int, size: int) -> bytes:
    """Return the parameters of an InferInputTensor that say where its values are, to be appended to it."""
    tensor = oip.ModelInferRequest.InferInputTensor()
    tensor.parameters["shared_memory_region"].string_param = memory
    tensor.parameters["shared_memory_offset"].int64_param = at
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    written: bytes = tensor.SerializeToString()
    return written
