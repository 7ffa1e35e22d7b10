"""What every backend that writes text has to do: a new one is added to BACKENDS and passes all of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial

import pytest
from inference.adapters.openai import OpenAIGenerator, OpenAIUpstream, Patience
from inference.adapters.triton import TritonServer
from inference.adapters.triton_bls import BlsGenerator
from inference.adapters.triton_text import TritonGenerator
from inference.core.answer import FinishReason, Piece
from inference.core.conversation import Turn
from inference.core.generation import Order, Sampling
from inference.core.ports import Generator
from inference.core.prompts import plain
from inference_engine_fakes import PROMPT_TOKENS, Counters, HttpEngine, Script, triton_counters, write_engines
from servicekit.errors import InvalidInput, TimedOut, Unavailable
from servicekit.testing import eventually

BACKENDS = ("vllm", "bls", "bls-all", "openai")
STOPPED_BY_US = ("vllm", "bls", "bls-all")
"""An OpenAI-compatible upstream minds stop texts itself."""
TELL_THEIR_END = ("vllm", "openai")
"""TensorRT-LLM's tensors carry no finish reason: the stream's final flag is the end."""
FREED_S = 1.0
"""Within so many seconds a request that was left does not run any more."""
ENDLESS = Script(endless=True, pause_s=0.01)
PIECES = ("Hel", "lo", " there", ".")


@dataclass(frozen=True, slots=True)
class Backend:
    """A generator, what its engine counts, and what its protocol can tell at all."""

    generator: Generator
    counters: Callable[[], Awaitable[Counters]]
    tells_usage: bool = True

    def order(self, script: Script, **sampling: object) -> Order:
        """Return an order for what a script says."""
        return Order([Turn("user", script.prompt())], Sampling(**({"max_tokens": 1000} | sampling)))  # type: ignore[arg-type]

    async def pieces(self, script: Script, **sampling: object) -> list[Piece]:
        """Return a streamed answer."""
        return [piece async for piece in self.generator.generate(self.order(script, **sampling), 10.0)]

    async def idle(self) -> bool:
        """Tell whether the engine runs nothing."""
        return (await self.counters()).running == 0


Engines = tuple[str, str]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, triton_process: Callable[..., object]) -> Iterator[Engines]:
    """Start a real Triton with the scripted engines; yield its address and the URL of its metrics."""
    repository = tmp_path_factory.mktemp("engines")
    server = triton_process(write_engines(repository), repository)
    try:
        server.start()
        server.wait_until_ready()
        yield server.address, server.metrics_url
    finally:
        server.kill()


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """Each backend in turn."""
    async with AsyncExitStack() as stack:
        if request.param == "openai":
            engine = await stack.enter_async_context(HttpEngine().serving())
            upstream = await stack.enter_async_context(OpenAIUpstream(engine.url, None, Patience(2.0, 5.0, 5.0, 5.0)))
            yield Backend(OpenAIGenerator(upstream, "m", "model", "max_tokens"), engine.counters)
            return
        address, metrics_url = request.getfixturevalue("engines")
        server = await stack.enter_async_context(TritonServer(address))
        counters = partial(triton_counters, metrics_url, request.param)
        if request.param == "vllm":
            yield Backend(TritonGenerator(server, "vllm", "model", plain), counters)
            return
        bls = BlsGenerator(server, request.param, "model", plain, cumulative=request.param == "bls-all")
        yield Backend(bls, counters, tells_usage=False)


def text_of(pieces: list[Piece]) -> str:
    return "".join(delta.text for piece in pieces for delta in piece.deltas)


def reason_of(pieces: list[Piece]) -> FinishReason:
    [reason] = [delta.finish_reason for piece in pieces for delta in piece.deltas if delta.finish_reason]
    return reason


async def test_an_answer_comes_in_pieces_the_first_served_and_the_last_counted(backend: Backend) -> None:
    pieces = await backend.pieces(Script(PIECES, pause_s=0.02))
    assert text_of(pieces) == "Hello there."
    assert pieces[0].served is not None
    assert [piece.served for piece in pieces[1:]] == [None] * (len(pieces) - 1)
    assert [piece.usage is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.served or piece.deltas or piece.usage for piece in pieces), "no piece is empty"
    assert len([piece for piece in pieces if piece.deltas and piece.deltas[0].text]) > 1, "text comes before the end"
    reasons = [delta.finish_reason for piece in pieces for delta in piece.deltas if delta.finish_reason]
    assert reasons == [FinishReason.STOP]


async def test_the_whole_of_an_answer_is_its_pieces_joined(backend: Backend) -> None:
    answer = await backend.generator.complete(backend.order(Script(PIECES)), 10.0)
    [choice] = answer.choices
    assert (choice.turn.text(), choice.finish_reason) == ("Hello there.", FinishReason.STOP)
    pieces = await backend.pieces(Script(PIECES))
    assert answer.usage == pieces[-1].usage
    assert answer.served.version == (pieces[0].served or answer.served).version


async def test_tokens_are_counted_where_the_backend_tells_them(backend: Backend) -> None:
    usage = (await backend.pieces(Script(PIECES)))[-1].usage
    assert usage is not None
    expected = (PROMPT_TOKENS, len(PIECES), True) if backend.tells_usage else (0, 0, False)
    assert (usage.input_tokens, usage.output_tokens, usage.reported) == expected


async def test_a_count_that_is_missing_is_not_made_up(backend: Backend) -> None:
    usage = (await backend.pieces(Script(PIECES, usage=False)))[-1].usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.reported) == (0, 0, False)


async def test_the_token_limit_is_told_from_a_natural_end(backend: Backend) -> None:
    pieces = await backend.pieces(Script(PIECES, end="length"), max_tokens=len(PIECES))
    assert reason_of(pieces) is FinishReason.LENGTH
    assert text_of(pieces) == "Hello there."


async def test_an_empty_answer_is_an_answer(backend: Backend) -> None:
    pieces = await backend.pieces(Script())
    assert (text_of(pieces), reason_of(pieces)) == ("", FinishReason.STOP)
    assert pieces[0].served is not None


async def test_text_of_any_script_and_empty_tokens_come_through(backend: Backend) -> None:
    pieces = await backend.pieces(Script(("", "Grüße, ", "", "世界 ", "\U0001f600", '\n\t"\\', "")))
    assert text_of(pieces) == 'Grüße, 世界 \U0001f600\n\t"\\'


@pytest.mark.parametrize("backend", STOPPED_BY_US, indirect=True)
async def test_a_stop_text_ends_the_answer_and_frees_the_backend(backend: Backend) -> None:
    script = Script(("one ", "two S", "TO", "P three", *["more "] * 2000), pause_s=0.01)
    pieces = await backend.pieces(script, stop=("STOP",))
    assert (text_of(pieces), reason_of(pieces)) == ("one two ", FinishReason.STOP)
    await eventually(backend.idle, FREED_S)


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
async def test_an_engine_that_fails_in_mid_answer_is_a_failure_that_tells_no_secrets(
    backend: Backend, streaming: bool
) -> None:
    order, seen = backend.order(Script(("half", " an"), end="error", pause_s=0.02)), list[Piece]()
    with pytest.raises(Unavailable) as caught:
        if not streaming:
            await backend.generator.complete(order, 10.0)
        async for piece in backend.generator.generate(order, 10.0):
            seen.append(piece)
    assert caught.value.reason == "backend_failed"
    assert "/secret" not in caught.value.message
    assert not any(piece.usage for piece in seen), "an answer that broke off is never counted as one"


@pytest.mark.parametrize("backend", TELL_THEIR_END, indirect=True)
async def test_an_answer_without_an_end_is_a_failure(backend: Backend) -> None:
    with pytest.raises(Unavailable) as caught:
        await backend.pieces(Script(PIECES, end="silent"))
    assert caught.value.reason == "backend_failed"


async def test_a_refused_request_is_the_callers_fault(backend: Backend) -> None:
    order = Order([Turn("user", "no script")], Sampling(max_tokens=9))
    with pytest.raises(InvalidInput):
        _ = [piece async for piece in backend.generator.generate(order, 10.0)]
    with pytest.raises(InvalidInput):
        await backend.generator.complete(order, 10.0)


async def stopped(backend: Backend) -> None:
    """Fail unless the engine runs nothing within a second, and makes no token after that."""
    await eventually(backend.idle, FREED_S)
    before = (await backend.counters()).tokens
    await asyncio.sleep(0.2)  # twenty tokens' time: what would still be made is seen
    assert (await backend.counters()).tokens == before


async def test_who_leaves_stops_the_engine(backend: Backend) -> None:
    async with aclosing(backend.generator.generate(backend.order(ENDLESS), 30.0)) as pieces:
        async for piece in pieces:
            if text_of([piece]):
                break
        assert (await backend.counters()).running == 1
    await stopped(backend)


async def test_who_gives_the_whole_of_an_answer_up_stops_the_engine(backend: Backend) -> None:
    task = asyncio.create_task(backend.generator.complete(backend.order(ENDLESS), 30.0))
    await eventually(lambda: _is_running(backend), 5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stopped(backend)


async def _is_running(backend: Backend) -> bool:
    return (await backend.counters()).running == 1


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
async def test_the_deadline_stops_the_engine(backend: Backend, streaming: bool) -> None:
    order = backend.order(ENDLESS)
    with pytest.raises(TimedOut):
        if not streaming:
            await backend.generator.complete(order, 0.5)
        async for _ in backend.generator.generate(order, 0.5):
            pass
    await stopped(backend)


async def test_many_at_once_mix_nothing_up(backend: Backend) -> None:
    async def one(number: int) -> str:
        return text_of(await backend.pieces(Script((f"{number}-",) * 5, pause_s=0.01)))

    found = await asyncio.gather(*map(one, range(20)))
    assert found == [f"{number}-" * 5 for number in range(20)]
    await eventually(backend.idle, FREED_S)


async def test_cumulative_text_waits_for_the_rest_of_a_character(engines: Engines) -> None:
    async with TritonServer(engines[0]) as server:
        generator = BlsGenerator(server, "bls-all", "model", plain, cumulative=True)
        order = Order(
            [Turn("user", Script(("caf\udcc3", "\udca9", "!"), pause_s=0.01).prompt())], Sampling(max_tokens=9)
        )
        pieces = [piece async for piece in generator.generate(order, 10.0)]
    assert text_of(pieces) == "café!"
    assert not any("\N{REPLACEMENT CHARACTER}" in delta.text for piece in pieces for delta in piece.deltas)


async def test_a_model_that_is_cumulative_against_its_declaration_is_not_told_twice(engines: Engines) -> None:
    async with TritonServer(engines[0]) as server:
        generator = BlsGenerator(server, "bls", "model", plain, cumulative=True)
        order = Order([Turn("user", Script(PIECES).prompt())], Sampling(max_tokens=9))
        with pytest.raises(Unavailable):
            _ = [piece async for piece in generator.generate(order, 10.0)]


async def test_tensorrt_llm_needs_a_token_limit(engines: Engines) -> None:
    async with TritonServer(engines[0]) as server:
        with pytest.raises(InvalidInput) as caught:
            await BlsGenerator(server, "bls", "model", plain).complete(Order([Turn("user", "x")]), 5.0)
    assert caught.value.field == "sampling.max_tokens"
