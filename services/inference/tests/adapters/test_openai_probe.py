"""An upstream is asked for a token now and then where the catalogue says so, and gets requests while it answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import orjson
import pytest
from inference.adapters.catalogue_file import read_catalogue
from inference.adapters.openai_probe import OpenAIProber
from inference.core.answer import Answer
from inference.core.conversation import Turn
from inference.core.generation import Order
from inference.core.pool import Pool
from inference.core.ports import SILENT
from inference.main import open_pool
from inference_fakes import FakeGenerator, FakeUpstream
from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable
from servicekit.testing import caller, eventually

ASKED = Order([Turn("user", "Hi")])
CATALOGUE = """
upstreams: {{there: {{base_url: "{url}"}}}}
models:
  - name: probed
    task: generate
    openai: {{upstream: there, model: up-1, probe: {{period_s: 1, golden: golden.json, golden_period_s: 1}}}}
"""
GOLDEN = '{"cases": [{"messages": [{"role": "user", "content": "Hi"}], "contains": ["there"]}]}'


class Failing(FakeGenerator):
    """Fails as it is told."""

    def __init__(self, error: PenstockError | None = None) -> None:
        super().__init__()
        self.error = error

    async def complete(self, order: Order, timeout_s: float) -> Answer:
        answer = await super().complete(order, timeout_s)
        if self.error is not None:
            raise self.error
        return answer


async def test_one_token_is_asked_for_and_not_more_often_than_once_a_second() -> None:
    generator, now = Failing(), [0.0]
    prober = OpenAIProber(generator, "up-1", clock=lambda: now[0])
    state = await prober.probe(3.0)
    assert (state.ready, state.version) == (True, "up-1")
    assert generator.orders[0].sampling.max_tokens == 1
    generator.error = Unavailable("down", reason="backend_failed")
    now[0] = 0.9
    assert (await prober.probe(3.0)).ready, "a probe may cost money"
    now[0] = 1.0
    assert not (await prober.probe(3.0)).ready
    assert len(generator.orders) == 2


@pytest.mark.parametrize(
    ("error", "ready", "detail"),
    [
        (Unavailable("down", reason="backend_failed"), False, "down"),
        (InvalidInput("it wants max_completion_tokens"), False, "it wants max_completion_tokens"),
        (TimedOut("too slow"), False, SILENT),
        (Unavailable("slow down", reason="rate_limited"), True, ""),
    ],
)
async def test_who_does_not_answer_gets_nothing_and_who_is_busy_lives(
    error: PenstockError, ready: bool, detail: str
) -> None:
    state = await OpenAIProber(Failing(error), "up-1").probe(3.0)
    assert (state.ready, state.detail) == (ready, detail)


def says(text: str) -> list[bytes]:
    message = {"role": "assistant", "content": text}
    body = {"model": "up-1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return [orjson.dumps(body)]


@asynccontextmanager
async def probing(folder: Path, upstream: FakeUpstream) -> AsyncIterator[Pool]:
    (folder / "golden.json").write_text(GOLDEN, "utf-8")
    (folder / "catalogue.yaml").write_text(CATALOGUE.format(url=upstream.url), "utf-8")
    async with AsyncExitStack() as stack:
        opened = await open_pool(read_catalogue(folder / "catalogue.yaml"), {}, folder, stack)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(opened.pool.watch())
            try:
                with caller():
                    yield opened.pool
            finally:
                watching.cancel()


@pytest.mark.slow
async def test_an_upstream_gets_requests_only_while_it_answers_and_answers_right(tmp_path: Path) -> None:
    async with FakeUpstream(says("Hello there."), headers={"Content-Type": "application/json"}).running() as upstream:
        upstream.status = 503
        async with probing(tmp_path, upstream) as pool:
            await eventually(lambda: pool.state("probed").reason == "backend_failed")
            with pytest.raises(Unavailable):
                await pool.complete("probed", ASKED)
            upstream.status = 200
            await eventually(lambda: pool.state("probed").ready)
            answer = await pool.complete("probed", ASKED)
            assert answer.choices[0].turn.text() == "Hello there."
            upstream.pieces = says("Something else.")
            await eventually(lambda: pool.state("probed").reason == "golden_failed")
            asked = len(upstream.asked)
            with pytest.raises(Unavailable):
                await pool.complete("probed", ASKED)
            assert len(upstream.asked) == asked, "who answers wrongly is not asked by callers"
