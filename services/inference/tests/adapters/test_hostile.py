"""The OpenAI adapter against the hostile upstream of platform-tests: every scenario, streamed and whole."""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from inference.adapters.openai import OpenAIGenerator, OpenAIUpstream, Patience
from inference.core.answer import FinishReason, Usage
from inference.core.conversation import Turn
from inference.core.generation import ChatOptions, JsonSchema, Order, Sampling, Tool
from servicekit.errors import InvalidInput, TimedOut, Unavailable
from servicekit.testing import eventually

sys.path.append(str(Path(__file__).resolve().parents[4] / "platform-tests"))

from hostile_process import SCENARIOS, Hostile, running_hostile

KEY = "sk-very-secret"
PATIENCE = Patience(connect_s=0.5, first_byte_s=0.5, stall_s=0.5, answer_s=0.5)
LONGEST_S = 2.0
HI = [Turn("user", "Hi")]
PLAIN = Order(HI)
MODES = pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "whole"])
SPECIAL = {"ok-paced", "400", "context-length", "flaky"}
RIGHT = ("ok", "ok-tools", "ok-json", "ok-n", "ok-echo", "ok-length", "refusal", "filtered")
ODD = ("bad-json", "bad-json-once", "bad-tools", "no-usage")
"""Right for this adapter; what is wrong with them is others' to see."""
RETRY_AFTER_S = {"429": (1, 1), "429-retry-after": (7, 7), "429-date": (20, 30), "429-long": (120, 120)}
BROKEN = sorted(set(SCENARIOS) - SPECIAL - {*RIGHT, *ODD, *RETRY_AFTER_S})


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    with running_hostile() as running:
        yield running


@pytest.fixture
async def upstream(hostile: Hostile) -> AsyncIterator[OpenAIUpstream]:
    async with OpenAIUpstream(f"{hostile.url}/v1", KEY, PATIENCE) as connection:
        yield connection


async def ask(upstream: OpenAIUpstream, scenario: str, streaming: bool, order: Order = PLAIN) -> dict[str, Any]:
    """Return an answer in one form, however it came."""
    generator = OpenAIGenerator(upstream, f"hostile-{scenario}", "m")
    if not streaming:
        whole = await generator.complete(order, 10.0)
        first = whole.choices[0]
        return {
            "texts": [choice.turn.content for choice in whole.choices],
            "refusal": first.turn.refusal,
            "calls": [(call.index, call.name, call.arguments) for call in first.turn.tool_calls],
            "reasons": {choice.finish_reason for choice in whole.choices},
            "usage": whole.usage,
            "logprobs": bool(first.logprobs_json),
            "fingerprint": whole.served.system_fingerprint,
        }
    pieces = [piece async for piece in generator.generate(order, 10.0)]
    deltas = [delta for piece in pieces for delta in piece.deltas]
    calls = [call for delta in deltas for call in delta.tool_calls]
    names = [call.name for call in calls if call.name]
    assert pieces[0].served is not None
    return {
        "texts": ["".join(each.text for each in deltas if each.choice == n) for n in range(order.sampling.n or 1)],
        "refusal": "".join(delta.refusal for delta in deltas),
        "calls": [(n, name, "".join(c.arguments for c in calls if c.index == n)) for n, name in enumerate(names)],
        "reasons": {delta.finish_reason for delta in deltas if delta.finish_reason},
        "usage": pieces[-1].usage,
        "logprobs": any(delta.logprobs_json for delta in deltas),
        "fingerprint": pieces[0].served.system_fingerprint,
    }


TEXT = "Hello from the hostile upstream, which is in a good mood today."
COUNTED = {"reported": True, "cached_input_tokens": 4, "reasoning_output_tokens": 1}


@MODES
async def test_a_right_answer(upstream: OpenAIUpstream, streaming: bool) -> None:
    assert await ask(upstream, "ok", streaming) == {
        "texts": [TEXT],
        "refusal": "",
        "calls": [],
        "reasons": {FinishReason.STOP},
        "usage": Usage(12, 12, **COUNTED),
        "logprobs": False,
        "fingerprint": "fp_hostile",
    }


@MODES
async def test_several_choices_with_log_probabilities(upstream: OpenAIUpstream, streaming: bool) -> None:
    order = Order(HI, Sampling(n=3, logprobs=True, top_logprobs=2))
    answer = await ask(upstream, "ok-n", streaming, order)
    assert answer["texts"] == [TEXT, f"{TEXT} #1", f"{TEXT} #2"]
    assert answer["logprobs"]


@MODES
async def test_parallel_tool_calls(upstream: OpenAIUpstream, streaming: bool) -> None:
    schema = '{"type": "object", "properties": {"city": {"type": "string"}}}'
    order = Order(HI, options=ChatOptions([Tool("weather", parameters_json=schema), Tool("time")]))
    answer = await ask(upstream, "ok-tools", streaming, order)
    assert answer["calls"] == [(0, "weather", '{"city": "text"}'), (1, "time", "{}")]
    assert answer["reasons"] == {FinishReason.TOOL_CALLS}
    assert (await ask(upstream, "bad-tools", streaming, order))["calls"] == [(0, "weather", '{"city": "Par')]
    turns = [*HI, Turn("tool", "Rain", tool_call_id="call_1_weather")]
    assert (await ask(upstream, "ok-tools", streaming, Order(turns)))["texts"] == ["The tools said: Rain"]


@MODES
async def test_structured_output_limits_and_refusals(upstream: OpenAIUpstream, streaming: bool) -> None:
    wanted = JsonSchema("s", '{"type": "object", "properties": {"age": {"type": "integer"}}}')
    order = Order(HI, options=ChatOptions(response_format=wanted))
    assert (await ask(upstream, "ok-json", streaming, order))["texts"] == ['{"age": 1}']
    assert (await ask(upstream, "ok-length", streaming))["reasons"] == {FinishReason.LENGTH}
    assert (await ask(upstream, "ok", streaming, Order(HI, Sampling(max_tokens=2))))["texts"] == ["Hello from"]
    assert (await ask(upstream, "refusal", streaming))["refusal"] == "I cannot help with that."
    assert (await ask(upstream, "filtered", streaming))["reasons"] == {FinishReason.CONTENT_FILTER}


@MODES
async def test_an_answer_without_usage_says_so(upstream: OpenAIUpstream, streaming: bool) -> None:
    answer = await ask(upstream, "no-usage", streaming)
    assert (answer["texts"], answer["usage"]) == ([TEXT], Usage())


@MODES
@pytest.mark.parametrize("scenario", BROKEN)
async def test_what_is_broken_is_an_honest_failure_in_time(
    hostile: Hostile, upstream: OpenAIUpstream, scenario: str, streaming: bool
) -> None:
    order = Order(HI, Sampling(n=2 if scenario == "one-of-n" else None, max_tokens=50))
    before = hostile.counts()["requests"].get(scenario, 0)
    start = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await ask(upstream, scenario, streaming, order)
    assert time.monotonic() - start < LONGEST_S
    assert caught.value.reason == "backend_failed"
    assert caught.value.retry_after_s is not None
    assert 1 <= caught.value.retry_after_s <= 120
    assert KEY not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    counts = hostile.counts()["requests"]
    assert counts[scenario] == before + 1, "nothing is retried here"
    assert "redirected" not in counts
    await eventually(lambda: hostile.counts()["open"] == {}, timeout_s=1.0)


@MODES
@pytest.mark.parametrize("scenario", RETRY_AFTER_S)
async def test_a_busy_upstream_says_when_to_come_back(upstream: OpenAIUpstream, scenario: str, streaming: bool) -> None:
    with pytest.raises(Unavailable) as caught:
        await ask(upstream, scenario, streaming)
    least_s, most_s = RETRY_AFTER_S[scenario]
    assert caught.value.reason == "rate_limited"
    assert caught.value.retry_after_s is not None
    assert least_s <= caught.value.retry_after_s <= most_s


@MODES
async def test_the_callers_fault_is_told_to_the_caller(upstream: OpenAIUpstream, streaming: bool) -> None:
    with pytest.raises(InvalidInput) as caught:
        await ask(upstream, "400", streaming)
    assert (caught.value.field, caught.value.reason) == ("temperature", "invalid_input")
    with pytest.raises(InvalidInput) as caught:
        await ask(upstream, "context-length", streaming)
    assert (caught.value.field, caught.value.reason) == ("messages", "context_length_exceeded")


@MODES
async def test_nobody_there_is_a_failure(streaming: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for address in (f"http://127.0.0.1:{port}/v1", "http://nowhere.invalid/v1"):
        async with OpenAIUpstream(address, KEY, PATIENCE) as nobody:
            with pytest.raises(Unavailable) as caught:
                await ask(nobody, "ok", streaming)
        assert caught.value.reason == "backend_failed"
        assert KEY not in str(caught.value)
        assert "nowhere" not in str(caught.value)


@MODES
async def test_a_server_without_tls_is_no_https_upstream(hostile: Hostile, streaming: bool) -> None:
    async with OpenAIUpstream(f"{hostile.url.replace('http', 'https')}/v1", KEY, PATIENCE) as upstream:
        with pytest.raises(Unavailable) as caught:
            await ask(upstream, "ok", streaming)
    assert caught.value.reason == "backend_failed"


@MODES
@pytest.mark.parametrize("scenario", ["silent", "stall", "ok-paced", "endless"])
async def test_the_deadline_counts_before_any_patience(hostile: Hostile, scenario: str, streaming: bool) -> None:
    async with OpenAIUpstream(f"{hostile.url}/v1", KEY) as upstream:
        generator = OpenAIGenerator(upstream, scenario, "m")
        order = Order(HI, Sampling(max_tokens=10_000_000))
        with pytest.raises((TimedOut, Unavailable)) as caught:
            if streaming:
                async for _ in generator.generate(order, 0.3):
                    pass
            else:
                await generator.complete(order, 0.3)
        assert isinstance(caught.value, TimedOut) or scenario == "endless"
        await eventually(lambda: hostile.counts()["open"] == {}, timeout_s=1.0)


@MODES
@pytest.mark.parametrize("scenario", ["silent", "stall", "ok-paced"])
async def test_cancelling_frees_the_upstream_within_a_second(hostile: Hostile, scenario: str, streaming: bool) -> None:
    async with OpenAIUpstream(f"{hostile.url}/v1", KEY) as upstream, asyncio.TaskGroup() as tasks:
        order = Order(HI, Sampling(max_tokens=10_000_000))
        asking = tasks.create_task(ask(upstream, scenario, streaming, order))
        await eventually(lambda: hostile.counts()["open"] == {scenario: 1})
        asking.cancel()
        await eventually(lambda: hostile.counts()["open"] == {}, timeout_s=1.0)


async def test_many_at_once_with_some_who_leave_mix_nothing_up_and_leak_nothing(hostile: Hostile) -> None:
    async with OpenAIUpstream(f"{hostile.url}/v1", KEY, PATIENCE) as upstream:

        async def one(number: int) -> None:
            order = Order([Turn("user", f"This is number {number}")])
            scenario = ("ok-echo", "cut", "ok-paced", "500")[number % 4]
            asking = asyncio.create_task(ask(upstream, scenario, number % 8 < 4, order))
            if scenario == "ok-paced":
                await asyncio.sleep(0.01 * (number % 7))
                asking.cancel()
            try:
                answer = await asking
            except (Unavailable, asyncio.CancelledError):
                assert scenario != "ok-echo"
            else:
                assert f'"This is number {number}"' in answer["texts"][0]

        for _ in range(3):
            async with asyncio.TaskGroup() as tasks:
                for number in range(64):
                    tasks.create_task(one(number))
        await eventually(lambda: hostile.counts()["open"] == {}, timeout_s=1.0)
        assert hostile.counts()["connections"] <= 64 + 1
    await eventually(lambda: hostile.counts()["connections"] == 1, timeout_s=1.0)


def test_every_scenario_is_tested() -> None:
    assert {*SPECIAL, *RIGHT, *ODD, *RETRY_AFTER_S, *BROKEN} == set(SCENARIOS)
