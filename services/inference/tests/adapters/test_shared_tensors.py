"""Tensors that Triton reads where they are: what it is told, and that no block is used again while it may read."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference.adapters.shared_tensors import LEAST_SHARED_BYTES, SHARED, WIRE, is_near, refer
from inference.adapters.tensor_memory import FOLDER, IN_USE, TensorMemory, Tensors
from inference.adapters.triton import TritonServer, TritonTensors
from inference_fakes import FakeTriton
from servicekit.errors import PenstockError, TimedOut, Unavailable
from servicekit.testing import eventually
from tritonclient.grpc import service_pb2 as oip

REGION, OFFSET, SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"


class NearTriton(FakeTriton):
    """A Triton of this machine: it reads where it is told, of the memory that it was told of."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[str] = set()
        self.refuses: tuple[grpc.StatusCode, str] | None = None
        self.asked_to_know = 0
        self.deadlines: list[float | None] = []

    async def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        if request.name not in self.known:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"Unable to find system shared memory region: '{request.name}'"
            )
        return oip.SystemSharedMemoryStatusResponse()

    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        self.asked_to_know += 1
        if self.refuses is not None:
            await context.abort(*self.refuses)
        assert request.key == f"/{request.name}"
        assert (FOLDER / request.name).stat().st_size == request.byte_size
        self.known.add(request.name)
        return oip.SystemSharedMemoryRegisterResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        regions = {each.parameters[REGION].string_param for each in request.inputs if REGION in each.parameters}
        if unknown := regions - self.known:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Unable to find shared memory region: '{unknown.pop()}'")
        self.deadlines.append(context.time_remaining())
        await self._enter(request, context)
        return oip.ModelInferResponse(model_name=request.model_name, raw_output_contents=values_of(request))

    def start_anew(self) -> None:
        """Forget what a process that died had been told."""
        self.known.clear()


def values_of(request: Any) -> list[bytes]:
    """Return the values of a request's inputs, wherever they are."""
    raw = iter(request.raw_input_contents)
    found = []
    for each in request.inputs:
        if REGION not in each.parameters:
            found.append(next(raw))
            continue
        start, size = each.parameters[OFFSET].int64_param, each.parameters[SIZE].int64_param
        with (FOLDER / each.parameters[REGION].string_param).open("rb") as file:
            file.seek(start)
            found.append(file.read(size))
    assert next(raw, None) is None
    return found


def request_of(*values: tuple[str, bytes], name: str = "there") -> Any:
    request = oip.ModelInferRequest(model_name=name, id="7")
    request.parameters["priority"].int64_param = 1
    for number, (datatype, raw) in enumerate(values):
        request.inputs.add(name=f"x{number}", datatype=datatype, shape=[len(raw)])
        request.raw_input_contents.append(raw)
    request.outputs.add(name="y")
    return request


def landed(memory: TensorMemory, request: Any) -> Tensors:
    message = request.SerializeToString()
    block = memory.take(len(message))
    assert block is not None
    block.view[:] = message
    return block


def large(value: int = 1) -> Any:
    return request_of(("FP32", np.full(250_000, value, np.float32).tobytes()))


@pytest.fixture
def memory() -> Iterator[TensorMemory]:
    gc.collect()
    IN_USE.set(0)
    with TensorMemory.open(16 << 20) as opened:
        yield opened


@asynccontextmanager
async def near(triton: NearTriton) -> AsyncIterator[TritonTensors]:
    async with triton.running() as address, TritonServer(address) as server:
        yield TritonTensors(server, "there", "shown")


def values(answer: bytes) -> Sequence[bytes]:
    raw: Sequence[bytes] = oip.ModelInferResponse.FromString(answer).raw_output_contents
    return raw


DATATYPES = st.sampled_from(["FP32", "UINT8", "BYTES", "INT64", "nonsense", ""])
CONTENTS = st.integers(0, 3 * LEAST_SHARED_BYTES).map(lambda size: bytes(range(251)) * (size // 251 + 1))


@given(st.lists(st.tuples(DATATYPES, CONTENTS), max_size=4))
def test_what_triton_is_told_has_the_same_values(inputs: list[tuple[str, bytes]]) -> None:
    sent = request_of(*inputs)
    with TensorMemory.open(16 << 20) as memory:
        message = landed(memory, sent) + oip.ModelInferRequest(model_name="elsewhere").SerializeToString()
        told = refer(message)
        if told is None:
            return
        asked = oip.ModelInferRequest.FromString(told)
        assert values_of(asked) == list(sent.raw_input_contents)
        assert asked.model_name == "elsewhere"
        assert (asked.id, asked.parameters, list(asked.outputs)) == (sent.id, sent.parameters, list(sent.outputs))
        for each, was in zip(asked.inputs, sent.inputs, strict=True):
            assert (each.name, each.datatype, list(each.shape)) == (was.name, was.datatype, list(was.shape))
            if REGION in each.parameters and each.datatype not in ("UINT8", "BYTES"):
                assert each.parameters[OFFSET].int64_param % 8 == 0
        del message


@pytest.mark.parametrize(
    "request_",
    [
        request_of(),
        request_of(("FP32", b"small")),
        oip.ModelInferRequest(model_name="there", raw_input_contents=[bytes(100_000)]),
    ],
)
def test_what_has_no_large_tensor_goes_over_the_wire(memory: TensorMemory, request_: Any) -> None:
    assert refer(landed(memory, request_)) is None


def test_only_what_is_on_this_machine_is_near() -> None:
    assert all(map(is_near, ("127.0.0.1:8001", "localhost:8001", "[::1]:8001", "127.8.0.1:1")))
    assert not any(map(is_near, ("10.0.0.1:8001", "triton:8001", "[fd00::1]:8001", "localhost.example.org:8001")))


async def test_triton_reads_where_the_request_was_received(memory: TensorMemory) -> None:
    triton, before = NearTriton(), SHARED._value.get()
    async with near(triton) as tensors:
        answers = await asyncio.gather(*(tensors.infer(landed(memory, large(number)), 5) for number in range(8)))
    assert [values(answer) for answer in answers] == [list(large(number).raw_input_contents) for number in range(8)]
    assert all(not request.raw_input_contents for request in triton.requests)
    assert oip.ModelInferResponse.FromString(answers[0]).model_name == "shown"
    assert triton.asked_to_know == 1
    assert SHARED._value.get() == before + 8
    await eventually(lambda: IN_USE._value.get() == 0)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT])
async def test_a_triton_that_refuses_gets_it_over_the_wire_and_is_not_asked_each_time(
    memory: TensorMemory, code: grpc.StatusCode
) -> None:
    triton, before = NearTriton(), WIRE._value.get()
    triton.refuses = code, "shared memory is not allowed"
    async with near(triton) as tensors:
        for number in range(3):
            assert values(await tensors.infer(landed(memory, large(number)), 5)) == large(number).raw_input_contents
    assert triton.asked_to_know == 1
    assert WIRE._value.get() == before + 3
    await eventually(lambda: IN_USE._value.get() == 0)


async def test_a_triton_that_started_anew_is_told_again_and_loses_nothing(memory: TensorMemory) -> None:
    triton = NearTriton()
    async with near(triton) as tensors:
        for number in range(3):
            assert values(await tensors.infer(landed(memory, large(number)), 5)) == large(number).raw_input_contents
            triton.start_anew()
    assert triton.asked_to_know == 2  # the second call went over the wire


async def test_a_caller_who_leaves_does_not_free_what_triton_may_read(memory: TensorMemory) -> None:
    triton = NearTriton()
    triton.hang = True
    async with near(triton) as tensors:
        asking = asyncio.create_task(tensors.infer(landed(memory, large()), 5))
        await triton.hanging.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        del asking
        with pytest.raises(TimedOut):
            await tensors.infer(landed(memory, large()), 0.1)
        gc.collect()
        assert IN_USE._value.get() > 2 * 1_000_000
        assert not triton.gone.is_set()
        assert triton.deadlines == [None, None]
    gc.collect()


async def test_a_call_that_ends_late_frees_its_block_then(memory: TensorMemory) -> None:
    triton, going_on = NearTriton(), asyncio.Event()
    plain = triton._enter

    async def waiting(request: Any, context: Any) -> None:
        await going_on.wait()
        await plain(request, context)

    triton._enter = waiting  # type: ignore[method-assign]
    async with near(triton) as tensors:
        with pytest.raises(TimedOut):
            await tensors.infer(landed(memory, large()), 0.1)
        assert IN_USE._value.get() > 0
        going_on.set()
        await eventually(lambda: IN_USE._value.get() == 0)


async def test_what_a_lost_connection_leaves_is_held_until_triton_has_started_anew(memory: TensorMemory) -> None:
    triton = NearTriton()
    triton.hang = True
    async with triton.running() as address, TritonServer(address) as server:
        tensors = TritonTensors(server, "there", "shown")
        asking = asyncio.create_task(tensors.infer(landed(memory, large()), 5))
        await triton.hanging.wait()
        await server.reset()
        with pytest.raises(Unavailable):
            await asking
        del asking
        triton.hang = False
        assert values(await tensors.infer(landed(memory, large(2)), 5)) == large(2).raw_input_contents
        gc.collect()
        assert IN_USE._value.get() > 1_000_000  # it is the process that it was, and may be at work
        triton.start_anew()
        await server.reset()
        for number in range(2):
            assert values(await tensors.infer(landed(memory, large(number)), 5)) == large(number).raw_input_contents
        await eventually(lambda: not gc.collect() and IN_USE._value.get() == 0)
    assert triton.asked_to_know == 2


async def test_nobody_there_is_an_honest_error_that_frees_the_block(memory: TensorMemory) -> None:
    async with TritonServer("127.0.0.1:9") as server:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await TritonTensors(server, "there", "shown").infer(landed(memory, large()), 5)
    gc.collect()
    assert IN_USE._value.get() == 0


async def test_errors_do_not_keep_blocks(memory: TensorMemory) -> None:
    triton = NearTriton()
    triton.failure = grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input 'x0'"
    gc.disable()
    try:
        async with near(triton) as tensors:
            for _ in range(20):
                with pytest.raises(PenstockError):
                    await tensors.infer(landed(memory, large()), 5)
            await eventually(lambda: IN_USE._value.get() == 0)
    finally:
        gc.enable()
