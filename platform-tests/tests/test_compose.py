"""Containers: each comes back when it is killed, none is writable or privileged, and callers get honest answers."""

import asyncio
import json
import os
import signal
import time

import httpx
import pytest
from compose_stack import PROCESSES, ComposeSettings, ContainerStack
from servicekit.testing import eventually
from stack_process import RunningStack
from tenancy import Administration, bearer

SETTINGS = ComposeSettings()
BACK_WITHIN_S = 30.0
OWN_USER = "10001:10001"
PRICE_NANOS = 12 * 1_000_000 + 12 * 2_000_000
"""Of one answer of the model `priced`."""

PER_MINUTE, WINDOW_S = 100, 55
LONGEST_COMMAND_S = 120
QUESTION = "How is the mood of the upstream today, on the whole?"
pytestmark = [pytest.mark.stack, pytest.mark.skipif(not SETTINGS.compose, reason="`make compose-test` runs this")]
scale_only = pytest.mark.skipif(SETTINGS.compose != "scale", reason="the profile scale alone has it")


@pytest.fixture
def containers(stack: RunningStack) -> ContainerStack:
    """The stack, as what it is."""
    assert isinstance(stack, ContainerStack)
    return stack


def test_as_many_containers_as_the_profile_says(containers: ContainerStack) -> None:
    found = containers.compose.containers()
    assert len(found) == {"default": 7, "milvus": 8, "scale": 11}[SETTINGS.compose]


def test_no_container_is_root_writable_or_privileged(containers: ContainerStack) -> None:
    for name, each in containers.compose.containers().items():
        host = each["HostConfig"]
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert not host["Privileged"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        if name != "milvus":  # its maker's image is made to run as root, and writes beside its program
            assert host["ReadonlyRootfs"], name
            assert each["Config"]["User"] in {OWN_USER, "postgres"}, name
        assert not each["Config"]["Image"].endswith(":latest"), name


def test_no_secret_is_in_a_containers_definition(containers: ContainerStack) -> None:
    url = "import pathlib; print(pathlib.Path('/etc/penstock/secrets/GATEWAY_DATABASE_URL').read_text())"
    password = containers.compose.run("exec", "-T", "gateway", "python3", "-c", url).stdout.split(":")[2].split("@")[0]
    assert len(password) == 48
    assert password not in json.dumps(containers.compose.containers())


@pytest.mark.parametrize("name", ["triton", "inference", "embedding", "vector-search", "orchestrator", "feature-store"])
async def test_only_the_gateway_can_be_reached_from_outside(containers: ContainerStack, name: str) -> None:
    published = containers.compose.containers()[name]["NetworkSettings"]["Ports"] or {}
    assert not any(published.values())


async def test_the_first_process_ends_the_service_when_it_is_told_to(containers: ContainerStack) -> None:
    begun = time.monotonic()
    containers.compose.run("stop", "embedding")
    took_s = time.monotonic() - begun
    state = containers.compose.containers()["embedding"]["State"]
    containers.compose.run("up", "--detach", "--no-build", "embedding")
    containers.await_serving(LONGEST_COMMAND_S)
    assert state["ExitCode"] == 0
    assert took_s < 15


@pytest.mark.skipif(SETTINGS.compose != "default", reason="the profile observability is the default and more")
async def test_prometheus_reads_the_metrics_of_every_process(containers: ContainerStack) -> None:
    containers.compose.run("--profile", "observability", "up", "--detach", "--no-build", "--no-deps", "prometheus")
    url = f"http://127.0.0.1:{SETTINGS.compose_port + 4}/api/v1/targets"
    health: dict[str, str] = {}

    async def all_read() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(url)
        except httpx.TransportError:
            return False
        if answer.status_code != 200:  # it is not ready yet, and says so in plain text
            return False
        targets = answer.json()["data"]["activeTargets"]
        health.update({each["labels"]["instance"].split(":")[0]: each["health"] for each in targets})
        return set(health.values()) == {"up"}

    try:
        await eventually(all_read, timeout_s=60)
        assert set(health) == set(PROCESSES)
    finally:
        containers.compose.run("--profile", "observability", "rm", "--stop", "--force", "prometheus")


@pytest.mark.parametrize("name", ["redis", "postgres", "gateway-2", "inference-2"])
@scale_only
async def test_a_killed_engine_or_second_copy_comes_back(
    containers: ContainerStack, administration: Administration, rest: httpx.AsyncClient, name: str
) -> None:
    key = await administration.key()
    pid = containers.pid(name)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: containers.pid(name) not in {0, pid}, BACK_WITHIN_S)
    await asyncio.to_thread(containers.await_serving, BACK_WITHIN_S)

    async def answered() -> bool:
        response = await rest.get("/v1/models", headers=bearer(key.text))
        assert response.status_code in {200, 503}, response.text
        return response.status_code == 200

    await eventually(answered, BACK_WITHIN_S)


@scale_only
async def test_a_budget_holds_across_containers(containers: ContainerStack, administration: Administration) -> None:
    """Two hundred calls at once at two gateways; the budget pays ten, and what runs has its worst case reserved."""
    budget = PRICE_NANOS * 10
    tenant = await administration.tenant({"budget_day_usd": f"{budget / 1e9:.9f}"})
    key = await administration.key(tenant)
    paid = (await _ask_everywhere(containers, key.text, "priced", 100)).count(200)
    while more := (await _ask_everywhere(containers, key.text, "priced", 1)).count(200):
        paid += more

    async def booked() -> bool:
        return len(await administration.attempts(tenant)) >= paid

    await eventually(booked, timeout_s=20)
    reserved = max(row["reserved_nanos"] for row in await administration.attempts(tenant))
    assert await administration.cost_nanos(tenant) == (paid, PRICE_NANOS * paid)
    assert budget - reserved < PRICE_NANOS * paid <= budget


@scale_only
async def test_a_rate_holds_across_containers(containers: ContainerStack, administration: Administration) -> None:
    key = await administration.key(await administration.tenant({"requests_per_minute": PER_MINUTE}))
    begun = time.monotonic()
    statuses = await _ask_everywhere(containers, key.text, "hostile-ok", 100)
    assert time.monotonic() - begun < WINDOW_S
    print(f"\nof 200 calls at two gateways {statuses.count(200)} let in, at {PER_MINUTE} a minute")
    assert PER_MINUTE - 2 <= statuses.count(200) <= PER_MINUTE + 2
    assert set(statuses) == {200, 429}


async def _ask_everywhere(containers: ContainerStack, key: str, model: str, each: int) -> list[int]:
    """Send so many chats to every gateway at once, when both know the key; return the statuses."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12}
    async with httpx.AsyncClient(headers=bearer(key), timeout=60, trust_env=False) as client:
        urls = [containers.url, *(rest for rest, _ in containers.others)]
        for url in urls:

            async def known(url: str = url) -> bool:
                return (await client.get(f"{url}/v1/models")).status_code == 200

            await eventually(known, timeout_s=10)
        calls = [client.post(f"{url}/v1/chat/completions", json=body) for url in urls for _ in range(each)]
        return [response.status_code for response in await asyncio.gather(*calls)]
