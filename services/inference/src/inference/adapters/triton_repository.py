"""Loads and unloads models in one Triton server over its repository API, and tells what they take."""

import logging
from collections.abc import Mapping
from typing import Final, Protocol, Self

import grpc
from google.protobuf.message import DecodeError
from servicekit.errors import PenstockError, TimedOut
from servicekit.rpc import CallFailed, Link
from tritonclient.grpc import service_pb2 as oip

from inference.adapters.model_folder import ModelFolder
from inference.adapters.triton import SERVICE
from inference.core.ports import BackendLost
from inference.core.residency_ports import LoadFailed, Memory, Status

STATES: Final = {"READY": Status.READY, "LOADING": Status.LOADING, "UNLOADING": Status.UNLOADING}
LOST: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
LIMIT: Final = "limit"
"""A server that refuses a load because of its own memory limit says so under UNAVAILABLE."""
ALL_KINDS: Final = frozenset({"CPU", "CPU_PINNED", "GPU"})
log = logging.getLogger(__name__)


class Meter(Protocol):
    """Measures what a server holds."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of memory it measures, as Triton's statistics name them."""
        ...

    async def read(self) -> Memory | None:
        """Return what it holds, or None where that cannot be measured."""
        ...


class TritonRepository:
    """The model repository of one server; loads have a connection of their own, so that no request waits for them."""

    def __init__(self, address: str, folder: ModelFolder | None = None, meter: Meter | None = None) -> None:
        """Take the server's address, its repository where that can be read from here, and what measures its memory."""
        self._address = address
        self._folder = folder
        self._meter = meter

    async def __aenter__(self) -> Self:
        """Make ready; the connection comes up with the first call."""
        self._link = Link(self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection; a load that runs goes on in the server."""
        await self._link.close()

    async def check(self, model: str) -> None:
        """Raise LoadFailed, naming the file, when the model's files cannot be right."""
        if self._folder is not None:
            await self._folder.check(model)

    async def load(self, model: str, timeout_s: float) -> None:
        """Load a model; raise LoadFailed when the server refuses it, whose log says why."""
        request = oip.RepositoryModelLoadRequest(model_name=model).SerializeToString()
        try:
            await self._link.unary(f"{SERVICE}RepositoryModelLoad", request, timeout_s)
        except CallFailed as error:
            raise self._translated(error, f"{model} could not be loaded by its server") from error

    async def unload(self, model: str, timeout_s: float) -> None:
        """Ask for a model to go; the server answers before it is gone."""
        request = oip.RepositoryModelUnloadRequest(model_name=model).SerializeToString()
        try:
            await self._link.unary(f"{SERVICE}RepositoryModelUnload", request, timeout_s)
        except CallFailed as error:
            raise self._translated(error, f"{model} could not be unloaded") from error

    async def index(self, timeout_s: float) -> Mapping[str, Status]:
        """Return the status of every model; of several versions the one that serves counts, else one on its way."""
        request = oip.RepositoryIndexRequest().SerializeToString()
        try:
            raw = await self._link.unary(f"{SERVICE}RepositoryIndex", request, timeout_s)
            answer = oip.RepositoryIndexResponse.FromString(raw)
        except CallFailed as error:
            raise self._lost(error, "the repository could not be listed") from error
        except DecodeError as error:
            raise BackendLost("the server's list of models cannot be read") from error
        found: dict[str, Status] = {}
        for model in answer.models:
            status = STATES.get(model.state, Status.ABSENT)
            if found.get(model.name, Status.ABSENT) is Status.ABSENT or status is Status.READY:
                found[model.name] = status
        return found

    async def memory(self, timeout_s: float) -> Memory | None:
        """Return what the server holds; of the models, what the meter or the server itself can tell apart."""
        memory = await self._meter.read() if self._meter is not None else None
        told = await self._told(self._meter.kinds if self._meter is not None else ALL_KINDS, timeout_s)
        if memory is not None:
            return Memory(memory.used_bytes, {**told, **memory.models})
        return Memory(sum(told.values()), told) if told else None

    async def _told(self, kinds: frozenset[str], timeout_s: float) -> dict[str, int]:
        """Return the bytes that the server's statistics give: some backends measure them at the load, others not."""
        try:
            request = oip.ModelStatisticsRequest().SerializeToString()
            raw = await self._link.unary(f"{SERVICE}ModelStatistics", request, timeout_s)
            answer = oip.ModelStatisticsResponse.FromString(raw)
        except CallFailed as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                return {}
            raise self._lost(error, "the statistics could not be read") from error
        except DecodeError as error:
            raise BackendLost("the server's statistics cannot be read") from error
        sizes: dict[str, int] = {}
        for each in answer.model_stats:
            size = sum(usage.byte_size for usage in each.memory_usage if usage.type in kinds)
            if size:
                sizes[each.name] = sizes.get(each.name, 0) + size
        return sizes

    def _lost(self, error: CallFailed, message: str) -> PenstockError:
        """Return the error kind of a question that every server in order answers."""
        failed = self._translated(error, message)
        return BackendLost(message, retry_after_s=1.0) if isinstance(failed, LoadFailed) else failed

    def _translated(self, error: CallFailed, message: str) -> PenstockError:
        """Return the error kind. The server's own words name files and addresses of its machine: they go to the log."""
        code, details = error.code, error.message
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TimedOut(f"{message} in time")
        if code in LOST and LIMIT not in details:
            return BackendLost(message, retry_after_s=1.0)
        log.error("%s: %s: %s: %s", self._address, message, code.name, details)
        return LoadFailed(message)
