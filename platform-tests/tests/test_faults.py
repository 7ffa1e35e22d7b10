"""A process is killed under load: it comes back, callers get honest answers, nothing acknowledged is lost."""

import asyncio
import os
import signal
import time

import httpx
import pytest
from servicekit.testing import eventually
from stack_process import RunningStack

CALLERS = 16
BACK_WITHIN_S = 15
VICTIMS = ["triton", "inference", "embedding", "vector-search", "orchestrator", "feature-store", "gateway"]
RETRYABLE = {503, 504}
OUTAGE = (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)


class Load:
    """Callers that ask and ingest until they are told to stop, and remember what came back."""

    def __init__(self, rest: httpx.AsyncClient, victim: str) -> None:
        self.rest = rest
        self.victim = victim
        self.stopping = False
        self.acknowledged: list[str] = []
        self.statuses: list[int] = []
        self.wrong: list[str] = []
        self.degraded = 0

    async def run(self) -> None:
        """Keep 16 callers busy; every fourth ingests."""
        await asyncio.gather(*(self._ingest(n) if n % 4 == 0 else self._ask(n) for n in range(CALLERS)))

    async def _ask(self, caller: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            question = f"What does turbine {caller} of plant {number} do?"
            response = await self._post("/v1/ask", {"knowledge_base": "faults", "question": question})
            if response is not None and response.status_code == 200:
                self.degraded += bool(response.json()["degradations"])

    async def _ingest(self, caller: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            name = f"{self.victim}-{caller}-{number}"
            document = {"id": name, "media_type": "text/plain", "text": f"Turbine {caller} of plant {number} turns."}
            response = await self._post("/v1/knowledge-bases/faults/documents", {"documents": [document]})
            if response is not None and response.status_code == 200:
                result = response.json()["results"][0]
                if result["status"] == "stored":
                    self.acknowledged.append(name)
                elif not result["retryable"]:
                    self.wrong.append(f"rejected for good: {result}")

    async def _post(self, path: str, body: dict[str, object]) -> httpx.Response | None:
        try:
            response = await self.rest.post(path, json=body)
        except OUTAGE as error:
            if self.victim != "gateway":
                self.wrong.append(f"connection lost: {error!r}")
            await asyncio.sleep(0.05)
            return None
        self.statuses.append(response.status_code)
        if response.status_code in RETRYABLE:
            if response.status_code == 503 and "retry-after" not in response.headers:
                self.wrong.append("503 without Retry-After")
            await asyncio.sleep(0.05)
        elif response.status_code != 200:
            self.wrong.append(f"{response.status_code}: {response.text[:200]}")
        return response


@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_killed_process_comes_back_and_nothing_is_lost(
    stack: RunningStack, rest: httpx.AsyncClient, victim: str
) -> None:
    path = "/v1/knowledge-bases/faults/documents"
    first = {"documents": [{"id": "first", "media_type": "text/plain", "text": "Turbine 1 turns."}]}
    question = {"knowledge_base": "faults", "question": "What turns?"}
    assert (await rest.post(path, json=first)).status_code == 200
    load = Load(rest, victim)
    running = asyncio.create_task(load.run())
    await eventually(lambda: len(load.statuses) > 30, timeout_s=20)
    pid = stack.pid(victim)
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()

    def back() -> bool:
        rows = stack.processes()
        return bool(rows) and all(row["ready"] for row in rows) and stack.pid(victim) != pid

    async def is_back() -> bool:
        """Return whether it runs, and its callers have found it again."""
        if not await asyncio.to_thread(back):
            return False
        answers = [await rest.post(path, json=first), await rest.post("/v1/ask", json=question)]
        return [answer.status_code for answer in answers] == [200, 200]

    try:
        await eventually(is_back, timeout_s=BACK_WITHIN_S)
        back_s = time.monotonic() - killed
    finally:
        load.stopping = True
        await running
    assert back_s < BACK_WITHIN_S
    assert load.wrong == []
    assert load.acknowledged
    for name in load.acknowledged:
        assert (await rest.get(f"/v1/knowledge-bases/faults/documents/{name}")).status_code == 200, name
