"""What the gateway exports of calls, and what it tells a caller of his limits."""

import re
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from stack_process import RunningStack
from tenancy import Administration, session

CHAT = "/v1/chat/completions"
TURNS = [{"role": "user", "content": "What does the upstream say?"}]
MODEL = "hostile-ok"
pytestmark = pytest.mark.stack


def chat(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": TURNS, "max_tokens": 20, **more}


async def exported(stack: RunningStack) -> str:
    """Return the gateway's metrics page."""
    row = next(row for row in stack.processes() if row["name"] == "gateway")
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{row.get('host', '127.0.0.1')}:{row['ports']['metrics']}/metrics")).text


def value(page: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of a name that have these labels."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


async def test_calls_are_exported_in_the_genai_conventions(stack: RunningStack, administration: Administration) -> None:
    key = await administration.key()
    before = await exported(stack)
    async with session(stack, key.text) as client:
        assert (await client.post(CHAT, json=chat())).status_code == 200
        assert "[DONE]" in (await client.post(CHAT, json=chat(stream=True))).text
    page = await exported(stack)
    asked = {"gen_ai_operation_name": "chat", "gen_ai_request_model": MODEL, "gen_ai_response_model": MODEL}

    def grown(name: str, **labels: str) -> float:
        return value(page, name, **labels) - value(before, name, **labels)

    assert grown("gen_ai_server_request_duration_seconds_count", **asked) == 2
    assert grown("gen_ai_server_time_to_first_token_seconds_count", **asked) == 1
    assert grown("gen_ai_client_token_usage_count", gen_ai_token_type="output", **asked) == 2
    overhead = {"gen_ai_operation_name": "chat"}
    assert grown("penstock_gateway_overhead_seconds_count", **overhead) == 2
    total_s = grown("gen_ai_server_request_duration_seconds_sum", **asked)
    assert 0 < grown("penstock_gateway_overhead_seconds_sum", **overhead) < total_s
    for secret in (key.id, key.tenant, key.text):
        assert secret not in page


async def test_a_caller_with_limits_is_told_how_they_stand(stack: RunningStack, administration: Administration) -> None:
    limits = {"requests_per_minute": 2, "tokens_per_minute": 100_000}
    key = await administration.key(await administration.tenant(limits))
    async with session(stack, key.text) as client:
        whole = await client.post(CHAT, json=chat())
        stream = await client.post(CHAT, json=chat(stream=True))
        refused = await client.post(CHAT, json=chat())
    assert [each.status_code for each in (whole, stream, refused)] == [200, 200, 429]
    left = [each.headers["x-ratelimit-remaining-requests"] for each in (whole, stream, refused)]
    assert left == ["1", "0", "0"]
    assert {each.headers["x-ratelimit-limit-requests"] for each in (whole, stream, refused)} == {"2"}
    assert 0 < int(whole.headers["x-ratelimit-remaining-tokens"]) < 100_000
    assert re.fullmatch(r"(\d+m)?\d+(\.\d)?s|\d+ms", refused.headers["x-ratelimit-reset-requests"])


async def test_whoever_has_no_limits_is_told_of_none(rest: httpx.AsyncClient) -> None:
    answer = await rest.post(CHAT, json=chat())
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
