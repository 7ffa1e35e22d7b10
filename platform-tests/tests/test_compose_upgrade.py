"""From one version to the next under load: nobody sees a failure but those that say when to try again."""

import asyncio
import subprocess
from collections import Counter
from pathlib import Path

import httpx
import pytest
from compose_stack import ComposeSettings, ContainerStack
from servicekit.testing import eventually
from stack_process import ROOT, RunningStack
from tenancy import Administration, bearer

SETTINGS = ComposeSettings()
CALLERS = 4
RETRYABLE = {503, 504}
BACK = ("-m", "gateway.admin", "go-back", "0002")
CHAT = {"model": "hostile-ok", "messages": [{"role": "user", "content": "How is the mood?"}], "max_tokens": 12}
ASK = {"knowledge_base": "upgrade", "question": "How many turbines has the plant?"}
DOCUMENT = {"id": "plant", "media_type": "text/plain", "text": "The plant has six turbines. It stands at a river."}
pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(SETTINGS.compose != "scale", reason="the profile scale alone is upgraded without a pause"),
    pytest.mark.skipif(not SETTINGS.compose_next, reason="PENSTOCK_TEST_COMPOSE_NEXT names the version to go to"),
]


class Load:
    """Callers that know both gateways, and go to the other one when a connection fails."""

    def __init__(self, client: httpx.AsyncClient, urls: list[str]) -> None:
        self._client = client
        self._urls = urls
        self.stopping = False
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self) -> None:
        """Keep the callers busy until told to stop."""
        await asyncio.gather(*(self._call(number) for number in range(CALLERS)))

    async def _call(self, number: int) -> None:
        place = number
        while not self.stopping:
            path, body = ("/v1/chat/completions", CHAT) if number % 2 else ("/v1/ask", ASK)
            try:
                response = await self._client.post(self._urls[place % len(self._urls)] + path, json=body)
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                self.seen["other gateway"] += 1
                place += 1
                continue
            self.seen[str(response.status_code)] += 1
            if response.status_code in RETRYABLE:
                if response.status_code == 503 and "retry-after" not in response.headers:
                    self.wrong.append("503 without Retry-After")
                await asyncio.sleep(0.1)
            elif response.status_code != 200:
                self.wrong.append(f"{response.status_code}: {response.text[:200]}")


def upgrade(stack: ContainerStack, version: str, checkout: Path) -> None:
    """Bring every container to a version, one after the other, with that version's own program and compose file."""
    environment = {**stack.compose.environment, "PENSTOCK_VERSION": version}
    command = [str(checkout / "deploy/compose/upgrade"), SETTINGS.compose]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


async def test_an_upgrade_and_the_way_back_fail_no_call(stack: RunningStack, administration: Administration) -> None:
    assert isinstance(stack, ContainerStack)
    key = await administration.key()
    urls = [stack.url, *(rest for rest, _ in stack.others)]
    async with httpx.AsyncClient(headers=bearer(key.text), timeout=60, trust_env=False) as client:
        sent = {"documents": [DOCUMENT]}
        path = "/v1/knowledge-bases/upgrade/documents"
        assert (await client.post(stack.url + path, json=sent)).status_code == 200
        load = Load(client, urls)
        running = asyncio.create_task(load.run())
        for version, checkout in ((SETTINGS.compose_next, ROOT), (SETTINGS.compose_version, SETTINGS.compose_checkout)):
            await eventually(lambda: load.seen["200"] > 10, timeout_s=60)
            load.seen.clear()
            await asyncio.to_thread(upgrade, stack, version, checkout.absolute())
            images = {name: each["Config"]["Image"] for name, each in stack.compose.containers().items()}
            assert all(image.endswith(f":{version}") for image in images.values() if image.startswith("penstock/"))
            print(f"\nto {version}: {dict(load.seen)}")
        load.stopping = True
        await running
    assert load.wrong == []


async def test_an_older_version_starts_on_tables_that_were_taken_back(
    stack: RunningStack, administration: Administration
) -> None:
    """The ledger goes with its migration; tenants, keys and what is booked from then on do not."""
    assert isinstance(stack, ContainerStack)
    key = await administration.key()
    await asyncio.to_thread(upgrade, stack, SETTINGS.compose_next, ROOT)
    newer = {**stack.compose.environment, "PENSTOCK_VERSION": SETTINGS.compose_next}
    program = [str(ROOT / "deploy/compose/run"), SETTINGS.compose]
    for command in (["stop", "gateway", "gateway-2"], ["run", "--rm", "gateway", *BACK]):
        done = await asyncio.to_thread(subprocess.run, [*program, *command], env=newer, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    await asyncio.to_thread(upgrade, stack, SETTINGS.compose_version, SETTINGS.compose_checkout.absolute())
    async with httpx.AsyncClient(headers=bearer(key.text), timeout=60, trust_env=False) as client:

        async def answered() -> bool:
            return (await client.post(f"{stack.url}/v1/chat/completions", json=CHAT)).status_code == 200

        await eventually(answered, timeout_s=30)

    async def booked() -> bool:
        return len(await administration.attempts(key.tenant)) == 1

    await eventually(booked, timeout_s=20)
