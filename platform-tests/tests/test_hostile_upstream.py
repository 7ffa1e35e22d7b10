"""Every fault of an upstream, on both doors, streamed and not: an honest error or a whole answer, and one row each."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from hostile_process import SCENARIOS, Hostile
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1 import gateway_pb2_grpc as pb_grpc
from penstock.inference.v1 import inference_pb2 as inference
from servicekit.testing import eventually
from stack_process import ROOT, RunningStack
from tenancy import Administration, Key, bearer, session

CHAT = "/v1/chat/completions"
TEXT = "Hello from the hostile upstream, which is in a good mood today."
DEADLINE_S = 6.0
GRACE_S = 2.0
AT_ONCE = 6
WHOLE = {
    *("ok", "ok-paced", "ok-tools", "ok-json", "ok-n", "ok-echo", "ok-length", "refusal", "filtered", "bad-json-once"),
    *("bad-tools", "no-usage", "flaky", "slow-first-byte"),
}
WHOLE_STREAMED = WHOLE - {"bad-json-once", "slow-first-byte"}
"""A stream is not asked for once more when it does not fit its schema, and its first byte has to come within 2 s."""

ASKED_TWICE = {"bad-json", "bad-json-once"}
EITHER = {"flaky"}
BEFORE_THE_FIRST_BYTE = (
    *("refused", "500", "503", "401", "429", "429-retry-after", "429-date", "429-long", "silent", "slow-first-byte"),
    *("redirect", "garbage", "not-http", "wrong-type", "empty-choices", "error-200", "404"),
)
FAULTS_WITH_FALLBACK = (*BEFORE_THE_FIRST_BYTE, "cut", "stall", "truncated-json", "error-event", "no-finish")
LIVE_WITHIN_S = 5.0
HTTP_ERRORS = {400, 404, 429, 502, 503, 504}
GRPC_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
pytestmark = [pytest.mark.stack, pytest.mark.slow]


@dataclass
class Ended:
    """How a call ended: whole, or with an error; what was odd about it; how long it took."""

    whole: bool = False
    text: str = ""
    error: str = ""
    served: str = ""
    odd: list[str] = field(default_factory=list)
    took_s: float = 0.0


@pytest.fixture(scope="module", autouse=True)
def aliases(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Declare an alias `safe-FAULT` for every fault, with a good model as its second; no model rests after failures."""
    local = ROOT / "deploy/local/gateway.yaml"
    lines = [f"  safe-{fault}: {{candidates: [hostile-{fault}, hostile-ok]}}" for fault in FAULTS_WITH_FALLBACK]
    file = tmp_path_factory.mktemp("configuration") / "gateway.yaml"
    text = local.read_text().replace("routes:\n", "\n".join(["routes:", *lines, ""]), 1)
    text = text.replace("cooldown: {failures: 5,", "cooldown: {failures: 100,", 1)
    assert "failures: 100" in text
    file.write_text(text)
    apply(stack, file, {f"safe-{fault}" for fault in FAULTS_WITH_FALLBACK})
    yield
    apply(stack, local, set())


def apply(stack: RunningStack, file: Path, wanted: set[str]) -> None:
    """Put a configuration in force and wait until the gateway lists its aliases, for as long as it may take."""
    done = stack.penstock("config", "apply", str(file), check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    until_s = time.monotonic() + LIVE_WITHIN_S
    while aliases_of(stack) != wanted:
        assert time.monotonic() < until_s, f"{aliases_of(stack)} instead of {wanted}"
        time.sleep(0.1)


def aliases_of(stack: RunningStack) -> set[str]:
    """Return the aliases of this module that the gateway lists."""
    response = httpx.get(f"{stack.url}/v1/models", headers=bearer(stack.api_key), trust_env=False)
    return {model["id"] for model in response.json()["data"] if model["id"].startswith("safe-")}


@pytest.fixture
async def key(administration: Administration) -> Key:
    """A key of a tenant of this test's own, so that the rows are its own."""
    return await administration.key()


class Rest:
    """Calls over REST."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def plain(self, model: str, scenario: str) -> Ended:
        """Ask for a whole answer."""
        response = await self._client.post(CHAT, json=rest_body(model, scenario), headers=self._patience)
        if response.status_code != 200:
            return refused(response)
        made = response.json()
        ended = Ended(whole=True, served=made["penstock"]["served"]["model"])
        ended.text = made["choices"][0]["message"]["content"] or ""
        if any(not choice["finish_reason"] for choice in made["choices"]):
            ended.odd.append("a whole answer without a finish reason")
        return ended

    async def streamed(self, model: str, scenario: str) -> Ended:
        """Ask for a stream and read it to its end."""
        body = rest_body(model, scenario) | {"stream": True}
        async with self._client.stream("POST", CHAT, json=body, headers=self._patience) as response:
            if response.status_code != 200:
                await response.aread()
                return refused(response)
            return read_events([line async for line in response.aiter_lines() if line], response)

    @property
    def _patience(self) -> dict[str, str]:
        return {"Penstock-Timeout-Ms": str(int(DEADLINE_S * 1000))}


class Typed:
    """Calls over gRPC."""

    def __init__(self, channel: grpc.aio.Channel, key: Key) -> None:
        self._door = pb_grpc.GatewayServiceStub(channel)
        self._metadata = key.metadata

    async def plain(self, model: str, scenario: str) -> Ended:
        """Ask for a whole answer."""
        request = pb.ChatRequest(conversation=conversation(model, scenario))
        try:
            made = await self._door.Chat(request, metadata=self._metadata, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            return failed(error)
        return whole(made, made.choices[0].message.content)

    async def streamed(self, model: str, scenario: str) -> Ended:
        """Ask for a stream and read it to its end."""
        request = pb.StreamChatRequest(conversation=conversation(model, scenario))
        pieces: list[inference.Delta] = []
        finished: list[pb.ChatResponse] = []
        try:
            async for event in self._door.StreamChat(request, metadata=self._metadata, timeout=DEADLINE_S):
                pieces += event.deltas
                finished += [event.finished] if event.HasField("finished") else []
        except grpc.aio.AioRpcError as error:
            ended = failed(error)
            if finished or any(piece.finish_reason for piece in pieces):
                ended.odd.append("an end before the error")
            return ended
        if len(finished) != 1:
            return Ended(whole=True, odd=[f"{len(finished)} ends"])
        return whole(finished[0], "".join(piece.text for piece in pieces if piece.choice == 0))


def rest_body(model: str, scenario: str) -> dict[str, Any]:
    """Return a request that the scenario can show itself with."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40}
    if scenario.endswith("tools"):
        body["tools"] = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    if "json" in scenario and scenario != "truncated-json":
        form = {"name": "place", "schema": SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if scenario in {"one-of-n", "ok-n"}:
        body["n"] = 2
    return body


def conversation(model: str, scenario: str) -> pb.Conversation:
    """Return the same for gRPC."""
    made = pb.Conversation(model=model, messages=[inference.Message(role="user", content="Hello")])
    made.sampling.max_tokens = 40
    if scenario.endswith("tools"):
        made.options.tools.add(name="weather", parameters_json=json.dumps(SCHEMA))
    if "json" in scenario and scenario != "truncated-json":
        form = made.options.response_format
        form.type, form.name = inference.RESPONSE_FORMAT_TYPE_JSON_SCHEMA, "place"
        form.schema_json = json.dumps(SCHEMA)
    if scenario in {"one-of-n", "ok-n"}:
        made.sampling.n = 2
    return made


def refused(response: httpx.Response) -> Ended:
    """Judge an error that came instead of an answer."""
    ended = Ended(error=f"{response.status_code} {response.text[:200]}")
    if response.status_code not in HTTP_ERRORS:
        ended.odd.append(f"status {response.status_code}")
    if response.json()["error"].keys() != {"message", "type", "param", "code"}:
        ended.odd.append("an error of another shape")
    if response.status_code in {429, 503} and not 1 <= int(response.headers.get("retry-after", 0)) <= 120:
        ended.odd.append(f"{response.status_code} with Retry-After {response.headers.get('retry-after')}")
    return ended


def read_events(lines: list[str], response: httpx.Response) -> Ended:
    """Judge a stream by its lines."""
    events = [line.removeprefix("data: ") for line in lines]
    done = events.count("[DONE]")
    parsed = [json.loads(event) for event in events if event != "[DONE]"]
    errors = [each for each in parsed if "error" in each]
    choices = [choice for each in parsed for choice in each.get("choices", [])]
    ended = Ended(whole=done > 0, served=response.headers.get("x-penstock-model", ""))
    ended.text = "".join(choice["delta"].get("content") or "" for choice in choices if choice["index"] == 0)
    if not errors:
        if done != 1 or events[-1] != "[DONE]":
            ended.odd.append("neither an error nor one [DONE] at the end")
        return ended
    ended.error = str(errors[0])
    if done or len(errors) > 1 or "error" not in parsed[-1] or not errors[0]["error"].get("code"):
        ended.odd.append("more than one error at the end")
    if any(choice["finish_reason"] for choice in choices):
        ended.odd.append("a finish reason beside an error")
    return ended


def failed(error: grpc.aio.AioRpcError) -> Ended:
    """Judge an error over gRPC."""
    odd = [] if error.code() in GRPC_ERRORS else [f"status {error.code()}"]
    return Ended(error=f"{error.code()} {error.details()}", odd=odd)


def whole(made: pb.ChatResponse, text: str) -> Ended:
    """Judge a whole answer over gRPC."""
    return Ended(whole=True, served=made.served.model, text=text)


async def timed(call: Any) -> Ended:
    """Wait for a call, at most twice as long as it may take, and note the time."""
    start_s = time.monotonic()
    try:
        async with asyncio.timeout(DEADLINE_S * 2):
            ended: Ended = await call
    except TimeoutError:
        ended = Ended(odd=["it never ended"])
    ended.took_s = time.monotonic() - start_s
    if ended.took_s > DEADLINE_S + GRACE_S:
        ended.odd.append(f"it took {ended.took_s:.1f} s")
    return ended


def judge(scenario: str, ended: Ended, can_be_whole: set[str]) -> list[str]:
    """Return what is wrong about the way a scenario ended."""
    wrong = list(ended.odd)
    if ended.whole == bool(ended.error):
        wrong.append("both an answer and an error, or neither")
    if scenario not in EITHER and ended.whole != (scenario in can_be_whole):
        wrong.append(f"whole: {ended.whole}, error: {ended.error}")
    if "Bearer" in ended.error or "Traceback" in ended.error:
        wrong.append(f"it tells too much: {ended.error}")
    return wrong


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("door", ["rest", "typed"])
async def test_every_scenario_ends_honestly_and_has_its_rows(
    stack: RunningStack, hostile: Hostile, administration: Administration, key: Key, *, door: str, streamed: bool
) -> None:
    hostile.reset()
    places = asyncio.Semaphore(AT_ONCE)
    can_be_whole = WHOLE_STREAMED if streamed else WHOLE

    async def one(scenario: str) -> list[str]:
        async with places:
            ended = await timed(ask(f"hostile-{scenario}", scenario))
        return judge(scenario, ended, can_be_whole)

    async with session(stack, key.text) as client, grpc.aio.insecure_channel(stack.grpc) as channel:
        caller = Rest(client) if door == "rest" else Typed(channel, key)
        ask = caller.streamed if streamed else caller.plain
        names = (*SCENARIOS, "refused")
        wrong = dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
    assert {scenario: each for scenario, each in wrong.items() if each} == {}
    await eventually(lambda: not any(hostile.counts()["open"].values()), timeout_s=5)
    asked = Counter(hostile.counts()["requests"])
    assert asked.pop("redirected", 0) == 0
    assert asked["bad-json"] == (1 if streamed else 2)
    rows = await rows_that_match(administration, key, asked + Counter({"refused": 1}))
    for row in rows:
        scenario = row["model"].removeprefix("hostile-")
        if scenario not in EITHER | ASKED_TWICE:
            expected = ("ok", False) if scenario in can_be_whole else ("failed", True)
            assert (row["status"], bool(row["reason"])) == expected, row


async def rows_that_match(administration: Administration, key: Key, asked: Counter[str]) -> list[dict[str, Any]]:
    """Wait until there is a row for every request that the upstream saw, and assert that there is no other."""
    expected = {f"hostile-{scenario}": count for scenario, count in asked.items()}

    async def all_there() -> bool:
        return len(await administration.attempts(key.tenant)) >= sum(expected.values())

    await eventually(all_there, timeout_s=10)
    rows = await administration.attempts(key.tenant)
    assert dict(Counter(row["model"] for row in rows)) == expected
    assert len({row["id"] for row in rows}) == len(rows)
    return rows


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("door", ["rest", "typed"])
async def test_a_route_with_a_second_candidate_answers_all_the_same(
    stack: RunningStack, hostile: Hostile, administration: Administration, key: Key, *, door: str, streamed: bool
) -> None:
    hostile.reset()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(fault: str) -> Ended:
        async with places:
            return await timed(ask(f"safe-{fault}", fault))

    async with session(stack, key.text) as client, grpc.aio.insecure_channel(stack.grpc) as channel:
        caller = Rest(client) if door == "rest" else Typed(channel, key)
        ask = caller.streamed if streamed else caller.plain
        late = {"slow-first-byte"}  # late for a stream alone
        names = BEFORE_THE_FIRST_BYTE if streamed else tuple(set(FAULTS_WITH_FALLBACK) - late)
        ends = dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
    wrong = {
        fault: ended
        for fault, ended in ends.items()
        if ended.odd or not ended.whole or (ended.text, ended.served) != (TEXT, "hostile-ok")
    }
    assert wrong == {}
    asked = Counter(hostile.counts()["requests"])
    assert asked["ok"] == len(names)
    await fallback_rows(administration, key, asked)


async def fallback_rows(administration: Administration, key: Key, asked: Counter[str]) -> None:
    """Assert a row for every attempt, numbered within its call, the last of which went well."""

    async def all_there() -> bool:
        return len(await administration.attempts(key.tenant)) >= asked.total()

    await eventually(all_there, timeout_s=10)
    rows = await administration.attempts(key.tenant)
    found = Counter(row["model"].removeprefix("hostile-") for row in rows)
    assert found - Counter({"refused": 1}) == asked
    calls: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["number"]):
        calls.setdefault(row["call_id"], []).append(row)
    for attempts in calls.values():
        assert [row["number"] for row in attempts] == list(range(1, len(attempts) + 1))
        assert [row["status"] for row in attempts] == ["failed"] * (len(attempts) - 1) + ["ok"]


@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_after_the_first_byte_nobody_else_is_asked(
    stack: RunningStack, hostile: Hostile, key: Key, fault: str
) -> None:
    hostile.reset()
    async with session(stack, key.text) as client:
        ended = await timed(Rest(client).streamed(f"safe-{fault}", fault))
    assert ended.odd == []
    assert (ended.whole, bool(ended.error)) == (False, True)
    assert ended.text
    assert hostile.counts()["requests"] == {fault: 1}


@pytest.mark.parametrize("fault", ["error-event", "truncated-json", "no-finish"])
async def test_what_fails_at_its_beginning_is_never_told_twice(
    stack: RunningStack, hostile: Hostile, key: Key, fault: str
) -> None:
    """The error may come together with the first piece, and then nothing has been told yet."""
    hostile.reset()
    async with session(stack, key.text) as client:
        ended = await timed(Rest(client).streamed(f"safe-{fault}", fault))
    assert ended.odd == []
    if ended.whole:
        assert (ended.text, ended.served, ended.error) == (TEXT, "hostile-ok", "")
        assert hostile.counts()["requests"] == {fault: 1, "ok": 1}
    else:
        assert ended.error
        assert hostile.counts()["requests"] == {fault: 1}


async def test_connections_to_the_upstream_do_not_pile_up(stack: RunningStack, hostile: Hostile, key: Key) -> None:
    faults = ["cut", "garbage", "not-http", "truncated-json", "error-event", "empty-choices"] * 3
    connections = []
    async with session(stack, key.text) as client:
        for _ in range(3):
            await asyncio.gather(*(timed(Rest(client).streamed(f"hostile-{fault}", fault)) for fault in faults))
            await eventually(lambda: not any(hostile.counts()["open"].values()), timeout_s=5)
            connections.append(hostile.counts()["connections"])
    assert connections[-1] <= connections[0] + len(faults) // 2
