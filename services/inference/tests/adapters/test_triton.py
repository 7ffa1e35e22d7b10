"""The Triton adapters against a Triton that fails as a test tells."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager

import grpc
import orjson
import pytest
from inference.adapters.triton import TritonProber, TritonServer, TritonTensors, translate
from inference.adapters.triton_arrays import TritonArrays
from inference.adapters.triton_text import TritonGenerator
from inference.core.answer import Answer, Choice, Delta, FinishReason, Piece, Served, Usage
from inference.core.conversation import Image, Turn
from inference.core.generation import ChatOptions, JsonObject, Order, Sampling, Tool
from inference.core.ports import SILENT, BackendLost, ModelState, NotServing
from inference.core.prompts import plain
from inference_fakes import FakeTriton, final_response, text_response
from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable
from servicekit.rpc import CallFailed
from servicekit.testing import eventually
from tritonclient.grpc import service_pb2 as oip

ORDER = Order((Turn("user", "Hi?"),), Sampling(max_tokens=9, stop=("\n",)))
REQUEST = oip.ModelInferRequest(model_name="there").SerializeToString()


@asynccontextmanager
async def connected(triton: FakeTriton) -> AsyncIterator[TritonServer]:
    async with triton.running() as address, TritonServer(address) as server:
        yield server


async def answer(triton: FakeTriton, timeout_s: float = 5.0) -> list[Piece]:
    async with connected(triton) as server:
        return [each async for each in TritonGenerator(server, "there", "chat", plain).generate(ORDER, timeout_s)]


def tensor(request: oip.ModelInferRequest, name: str) -> bytes:
    return next(raw for each, raw in zip(request.inputs, request.raw_input_contents, strict=True) if each.name == name)


async def test_speaks_the_tensors_of_the_vllm_backend() -> None:
    triton = FakeTriton()
    triton.responses = [text_response("Good", tokens=1), text_response(" day", "length", 2), final_response()]
    events = await answer(triton)
    assert events == [
        Piece(Served("1"), [Delta("Good")]),
        Piece(deltas=[Delta(" day")]),
        Piece(deltas=[Delta(finish_reason=FinishReason.LENGTH)], usage=Usage(11, 3, reported=True)),
    ]
    request = triton.requests[0]
    assert tensor(request, "text_input") == b"\x03\0\0\0Hi?"
    assert orjson.loads(tensor(request, "sampling_parameters")[4:]) == {"max_tokens": 9, "stop": ["\n"]}
    assert {tensor(request, name) for name in ("stream", "exclude_input_in_output", "return_finish_reason")} == {
        b"\x01"
    }
    assert request.parameters["triton_enable_empty_final_response"].bool_param
    assert triton.metadata[0]["triton_grpc_error"] == "true"
    assert "traceparent" not in triton.metadata[0]


async def test_the_final_response_ends_the_answer_even_if_the_stream_stays_open() -> None:
    triton = FakeTriton()
    triton.responses, triton.hang = [text_response("a", "stop", 1, final=True)], True
    assert await answer(triton) == [Piece(Served("1"), [Delta("a", FinishReason.STOP)], Usage(11, 1, reported=True))]


async def test_a_stop_text_ends_the_answer_of_a_model_that_does_not_mind_it() -> None:
    triton = FakeTriton()
    triton.responses, triton.hang = [text_response("one ", tokens=1), text_response("line\nmore", tokens=3)], True
    events = await answer(triton)
    assert [delta for piece in events for delta in piece.deltas] == [Delta("one "), Delta("line", FinishReason.STOP)]
    assert events[-1].usage == Usage(11, 4, reported=True)


async def test_completes_an_answer_as_a_whole() -> None:
    triton = FakeTriton()
    triton.responses = [text_response("Good", tokens=1), text_response(" day", "length", 2), final_response()]
    async with connected(triton) as server:
        whole = await TritonGenerator(server, "there", "chat", plain).complete(ORDER, 5.0)
    choice = Choice(0, Turn("assistant", "Good day"), FinishReason.LENGTH)
    assert whole == Answer(Served("1"), [choice], Usage(11, 3, reported=True))


async def test_a_whole_answer_that_breaks_off_is_a_failure() -> None:
    triton = FakeTriton()
    triton.responses = [text_response("half")]
    async with connected(triton) as server:
        with pytest.raises(Unavailable):
            await TritonGenerator(server, "there", "chat", plain).complete(ORDER, 5.0)


HI = [Turn("user", "Hi")]
BEYOND = [
    (Order(HI, options=ChatOptions([Tool("f")])), "tools"),
    (Order(HI, options=ChatOptions(response_format=JsonObject())), "response_format"),
    (Order(HI, options=ChatOptions(extra_json='{"a": 1}')), "extra_json"),
    (Order(HI, Sampling(n=2)), "n"),
    (Order(HI, Sampling(logprobs=True)), "logprobs"),
    (Order(HI, Sampling(logit_bias={"1": 1.0})), "logit_bias"),
    (Order([*HI, Turn("user", parts=[Image("https://x")])]), "messages[1].content[0]"),
]


@pytest.mark.parametrize(("order", "field"), BEYOND)
async def test_what_the_tensors_cannot_carry_is_refused_whatever_the_catalogue_says(order: Order, field: str) -> None:
    triton = FakeTriton()
    async with connected(triton) as server:
        with pytest.raises(InvalidInput) as caught:
            await TritonGenerator(server, "there", "chat", plain).complete(order, 5.0)
    assert (caught.value.reason, caught.value.field) == ("unsupported_parameter", field)
    assert triton.requests == []


async def test_penalties_and_seed_are_carried() -> None:
    triton = FakeTriton()
    triton.responses = [text_response("a", "stop", 1, final=True)]
    order = Order(HI, Sampling(seed=0, n=1, presence_penalty=0.5, frequency_penalty=-0.5))
    async with connected(triton) as server:
        await TritonGenerator(server, "there", "chat", plain).complete(order, 5.0)
    asked = orjson.loads(tensor(triton.requests[0], "sampling_parameters")[4:])
    assert asked == {"seed": 0, "presence_penalty": 0.5, "frequency_penalty": -0.5}


@pytest.mark.parametrize("reason", ["None", "abort"])
async def test_an_answer_without_a_proper_end_is_a_failure(reason: str) -> None:
    triton = FakeTriton()
    triton.responses = [text_response("half", reason)]
    with pytest.raises(Unavailable) as caught:
        await answer(triton)
    assert caught.value.reason == "backend_failed"


async def test_an_error_in_the_stream_is_a_failure() -> None:
    triton = FakeTriton()
    triton.responses = [text_response("half"), oip.ModelStreamInferResponse(error_message="engine died")]
    with pytest.raises(Unavailable) as caught:
        await answer(triton)
    assert caught.value.reason == "backend_failed"


class Garbled(TritonServer):
    """Answers with bytes that are no message."""

    async def stream(self, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        yield b"\xff\xff"


async def test_a_response_that_is_no_message_is_a_failure() -> None:
    with pytest.raises(Unavailable) as caught:
        await TritonGenerator(Garbled("127.0.0.1:1"), "there", "chat", plain).complete(ORDER, 5.0)
    assert caught.value.reason == "backend_failed"


CODES: list[tuple[grpc.StatusCode, str, type[PenstockError], str]] = [
    (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", InvalidInput, "invalid_input"),
    (grpc.StatusCode.UNIMPLEMENTED, "decoupled", InvalidInput, "invalid_input"),
    (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' is not found", Unavailable, "not_loaded"),
    (
        grpc.StatusCode.UNAVAILABLE,
        "Request for unknown model: 'x' has no version",
        Unavailable,
        "not_loaded",
    ),
    (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", Unavailable, "queue_full"),
    (grpc.StatusCode.UNAVAILABLE, "Request timeout expired", Unavailable, "queue_timeout"),
    (grpc.StatusCode.UNAVAILABLE, "Server is stopping, scheduler for model 'x' has stopped", Unavailable, "draining"),
    (grpc.StatusCode.UNAVAILABLE, "Socket closed", BackendLost, "backend_failed"),
    (grpc.StatusCode.INTERNAL, "CUDA error", Unavailable, "backend_failed"),
    (grpc.StatusCode.CANCELLED, "", BackendLost, "backend_failed"),
]


@pytest.mark.parametrize(("code", "details", "kind", "reason"), CODES)
async def test_tritons_codes_become_kinds(
    code: grpc.StatusCode, details: str, kind: type[PenstockError], reason: str
) -> None:
    triton = FakeTriton()
    triton.failure = (code, details)
    with pytest.raises(kind) as generating:
        await answer(triton)
    async with connected(triton) as server:
        with pytest.raises(kind) as inferring:
            await TritonTensors(server, "there", "m").infer(REQUEST, 5.0)
    assert {generating.value.reason, inferring.value.reason} == {reason}


async def test_the_deadline_reaches_triton() -> None:
    triton = FakeTriton()
    triton.hang = True
    with pytest.raises(TimedOut):
        await answer(triton, timeout_s=0.1)
    triton = FakeTriton()
    triton.hang = True
    async with connected(triton) as server:
        with pytest.raises(TimedOut):
            await TritonTensors(server, "there", "m").infer(REQUEST, 0.1)


async def test_closing_an_answer_cancels_the_stream() -> None:
    triton = FakeTriton()
    triton.responses, triton.hang = [text_response("a")], True
    async with connected(triton) as server:
        async with aclosing(TritonGenerator(server, "there", "chat", plain).generate(ORDER, 5.0)) as events:
            assert (await anext(events)).served == Served("1")
            await triton.hanging.wait()  # gRPC lets go of one that is still sending without closing it
        await asyncio.wait_for(triton.gone.wait(), 1.0)


async def test_cancelling_an_inference_cancels_it_at_triton() -> None:
    triton = FakeTriton()
    triton.hang = True
    async with connected(triton) as server, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(TritonTensors(server, "there", "m").infer(REQUEST, 5.0))
        await eventually(lambda: bool(triton.requests))
        running.cancel()
        await asyncio.wait_for(triton.gone.wait(), 1.0)


async def test_calls_on_a_connection_that_is_given_up_fail_and_the_next_one_works() -> None:
    triton = FakeTriton()
    triton.hang = True
    async with connected(triton) as server, asyncio.TaskGroup() as tasks:
        tensors = tasks.create_task(outcome(TritonTensors(server, "there", "m").infer(REQUEST, 5.0)))
        generator = TritonGenerator(server, "there", "chat", plain)
        chat = tasks.create_task(outcome(generator.complete(ORDER, 5.0)))
        probe = tasks.create_task(outcome(TritonArrays(server, "there", "m").run({}, 5.0)))
        await eventually(lambda: len(triton.requests) == 3)
        await server.reset()
        assert isinstance(await probe, BackendLost)
        assert isinstance(await tensors, BackendLost)
        assert isinstance(await chat, BackendLost)
        triton.hang = False
        assert await TritonTensors(server, "there", "m").infer(REQUEST, 5.0)


async def outcome(asking: Awaitable[object]) -> object:
    try:
        return await asking
    except PenstockError as error:
        return error


async def test_a_server_that_does_not_answer_a_probe_is_silent() -> None:
    class Silent(FakeTriton):
        async def ModelReady(self, request: object, context: object) -> oip.ModelReadyResponse:
            await asyncio.Event().wait()
            raise AssertionError

    async with connected(Silent()) as server, asyncio.TaskGroup() as tasks:
        probing = tasks.create_task(TritonProber(server, "there").probe(5.0))
        await eventually(lambda: not probing.done())
        await asyncio.sleep(0)
        await server.reset()
        assert await probing == ModelState(ready=False, reason="backend_failed")
        assert await TritonProber(server, "there").probe(0.1) == ModelState(
            ready=False, reason="backend_failed", detail=SILENT
        )


async def test_probing_tells_version_and_digest_or_why_not() -> None:
    async with connected(FakeTriton()) as server:
        there = await TritonProber(server, "there").probe(1.0)
        absent = await TritonProber(server, "absent").probe(1.0)
    assert there == ModelState(ready=True, version="3", digest="sha256:ab12")
    assert absent == ModelState(ready=False, reason="not_loaded")


def test_a_server_that_lives_and_fails_is_not_a_lost_one() -> None:
    assert not isinstance(translate(failure(grpc.StatusCode.INTERNAL, "CUDA error"), "m"), BackendLost)
    assert isinstance(translate(failure(grpc.StatusCode.UNAVAILABLE, "Socket closed"), "m"), BackendLost)


def test_a_version_that_is_not_loaded_says_nothing_about_the_others() -> None:
    unknown = "Request for unknown model: 'x' {} is not at ready state"
    told = [translate(failure(grpc.StatusCode.UNAVAILABLE, unknown.format(it)), "m") for it in ("version 2", "")]
    assert [error.reason for error in told] == ["not_loaded", "not_loaded"]
    assert [isinstance(error, NotServing) for error in told] == [False, True]


def failure(code: grpc.StatusCode, details: str) -> CallFailed:
    return CallFailed(code, details)


class LoadingTriton(FakeTriton):
    """Is loading a model; or keeps its repository's calls to itself."""

    closed = False

    async def RepositoryIndex(self, request: object, context: grpc.aio.ServicerContext) -> oip.RepositoryIndexResponse:
        if self.closed:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted")
        index = oip.RepositoryIndexResponse()
        index.models.add(name="loading", state="LOADING")
        return index


async def test_a_model_that_is_being_loaded_is_told_from_one_that_is_not() -> None:
    triton = LoadingTriton()
    async with connected(triton) as server:
        assert (await TritonProber(server, "loading").probe(1.0)).reason == "loading"
        assert (await TritonProber(server, "absent").probe(1.0)).reason == "not_loaded"
        triton.closed = True
        assert (await TritonProber(server, "loading").probe(1.0)).reason == "not_loaded"


async def test_a_triton_that_is_down_is_a_state_and_it_is_found_again_within_three_seconds() -> None:
    async with FakeTriton().running() as address:
        pass
    async with TritonServer(address) as server:
        prober = TritonProber(server, "there")
        assert await prober.probe(1.0) == ModelState(ready=False, reason="backend_failed")
        with pytest.raises(Unavailable) as caught:
            await TritonTensors(server, "there", "m").infer(REQUEST, 1.0)
        assert caught.value.reason == "backend_failed"
        assert "127.0.0.1" not in caught.value.message
        with pytest.raises(Unavailable) as caught:
            await anext(TritonGenerator(server, "there", "chat", plain).generate(ORDER, 1.0))
        assert caught.value.reason == "backend_failed"
        async with FakeTriton().running(address):

            async def found() -> bool:
                return (await prober.probe(1.0)).ready

            await eventually(found, timeout_s=3.0)
