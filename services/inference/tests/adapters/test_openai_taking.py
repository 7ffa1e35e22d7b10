"""The OpenAI adapter's short way of text: what is taken and what is yielded are one answer, and watched alike."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from inference.adapters.openai import OpenAIGenerator, OpenAIUpstream, Patience
from inference.core.answer import FinishReason, Piece, Served, Usage
from inference.core.conversation import Turn
from inference.core.generation import Order, Sampling
from inference_fakes import END, USAGE, FakeUpstream, chunk
from servicekit.errors import TimedOut, Unavailable

ORDER = Order((Turn("user", "Hi?"),), Sampling(max_tokens=9))


@asynccontextmanager
async def connected(upstream: FakeUpstream) -> AsyncIterator[OpenAIGenerator]:
    async with upstream.running(), OpenAIUpstream(upstream.url, None) as connection:
        yield OpenAIGenerator(connection, "up", "chat")


def text(events: Sequence[Piece]) -> str:
    return "".join(delta.text for event in events for delta in event.deltas)


def reasons(events: Sequence[Piece]) -> list[FinishReason]:
    return [delta.finish_reason for event in events for delta in event.deltas if delta.finish_reason]


class Taking:
    """Takes text while it is told to; says in which order all came."""

    def __init__(self, willing: str = "yes") -> None:
        self.willing = willing
        self.order: list[str] = []
        self.offered = 0

    def __call__(self, choice: int, said: str) -> bool:
        self.offered += 1
        if self.willing == "no" or (self.willing == "at times" and self.offered % 2):
            return False
        self.order.append(said)
        return True


async def taken(upstream: FakeUpstream, taking: Taking, order: Order = ORDER) -> list[Piece]:
    pieces = []
    async with connected(upstream) as generator:
        async for piece in generator.generate(order, 5.0, taking):
            pieces.append(piece)
            taking.order.append(text([piece]))
    return pieces


@pytest.mark.parametrize("willing", ["yes", "no", "at times"])
@pytest.mark.parametrize("pause_s", [0.0, 0.003])
async def test_text_that_is_taken_comes_in_its_order(willing: str, pause_s: float) -> None:
    words = [f"{number} " for number in range(40)]
    upstream = FakeUpstream([*map(chunk, words), END], pause_s=pause_s)
    taking = Taking(willing)
    order = Order(ORDER.turns, Sampling(max_tokens=99))
    pieces = await taken(upstream, taking, order)
    assert "".join(taking.order) == "".join(words)
    assert pieces[0].served == Served("up-1")
    assert (pieces[-1].usage, reasons(pieces)) == (Usage(7, 2, reported=True), [FinishReason.STOP])
    if willing == "yes":
        assert len(pieces) < 10, "the iteration had little to do"
    assert len(upstream.connections) == 1


async def test_only_what_is_nothing_but_text_is_offered() -> None:
    told = {"content": [], "refusal": None}
    call = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}
    upstream = FakeUpstream(
        [
            chunk("a"),
            chunk(choices=[{"index": 0, "delta": {"content": "b"}, "logprobs": told}]),
            chunk(choices=[{"index": 0, "delta": {"content": "c", **call}}]),
            chunk(choices=[{"index": 0, "delta": {"refusal": "d"}}]),
            chunk("e", "tool_calls"),
            USAGE,
            END,
        ],
        pause_s=0.003,
    )
    taking = Taking()
    pieces = await taken(upstream, taking)
    assert taking.offered == 0, "and the first piece is never"
    assert text(pieces) == "abce"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([chunk("b"), b"data: {no json\n\n"], "not JSON"),
        ([chunk("b"), chunk(choices=[{"index": 9, "delta": {"content": "c"}}])], "more often"),
        ([chunk("b", "stop"), chunk("c")], "wrote on after"),
        ([chunk("b")], "without a finish reason"),
        ([chunk("b")] * 600, "beyond all"),
    ],
)
async def test_what_is_taken_is_watched_like_the_rest(bad: list[bytes], words: str) -> None:
    with pytest.raises(Unavailable, match=words):
        await taken(FakeUpstream([chunk("a"), *bad], pause_s=0.0005), Taking())


async def test_a_stream_of_text_that_is_taken_stalls_in_time() -> None:
    upstream = FakeUpstream([chunk("a"), chunk("b")], hang=True, pause_s=0.003)
    async with upstream.running():
        patience = Patience(stall_s=0.1)
        async with OpenAIUpstream(upstream.url, None, patience) as connection:
            with pytest.raises(Unavailable, match="go on within"):
                async for _ in OpenAIGenerator(connection, "up", "chat").generate(ORDER, 5.0, Taking()):
                    pass
            with pytest.raises(TimedOut):
                async for _ in OpenAIGenerator(connection, "up", "chat").generate(ORDER, 0.05, Taking()):
                    pass
