"""The drill: save, wipe, restore. Afterwards there are as many documents, the same answers, and the same ledger."""

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from compose_stack import ComposeSettings, ContainerStack
from servicekit.testing import eventually
from stack_process import ROOT, RunningStack
from tenancy import Administration, Key, bearer

SETTINGS = ComposeSettings()
DOCUMENTS, QUESTIONS = 25, 50
BASE = "drill"
pytestmark = [pytest.mark.stack, pytest.mark.skipif(not SETTINGS.compose, reason="`make compose-test` runs this")]


def document(number: int) -> dict[str, Any]:
    """Return a document that answers two questions."""
    text = f"Plant {number} has {number + 2} turbines. It was opened in {1900 + number} by engineer Mensah-{number}."
    return {"id": f"plant-{number}", "media_type": "text/plain", "text": text}


def question(number: int) -> str:
    """Return one of the questions that the documents answer."""
    plant = number // 2
    return f"How many turbines has plant {plant}?" if number % 2 else f"Who opened plant {plant}?"


async def answers(client: httpx.AsyncClient) -> list[Any]:
    """Ask every question; return text and citations of each answer."""
    found = []
    for number in range(QUESTIONS):
        response = await client.post("/v1/ask", json={"knowledge_base": BASE, "question": question(number)})
        assert response.status_code == 200, response.text
        answer = response.json()
        citations = [(each["document_id"], each["quote"]) for each in answer["citations"]]
        found.append((answer["answer"], citations, answer["rung"]))
    return found


async def books(administration: Administration, tenant: str) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """Return every row of the ledger and the sums."""
    rows = await administration.attempts(tenant)
    return sorted(rows, key=lambda row: str(sorted(row.items()))), await administration.cost_nanos(tenant)


def deploy(program: str, stack: ContainerStack, folder: Path) -> None:
    """Run one of deploy/compose's programs on this installation."""
    command = [str(ROOT / "deploy/compose" / program), SETTINGS.compose, str(folder)]
    done = subprocess.run(command, env=dict(stack.compose.environment), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


async def test_a_restored_installation_is_the_one_that_was_saved(
    stack: RunningStack, administration: Administration, tmp_path: Path
) -> None:
    assert isinstance(stack, ContainerStack)
    key: Key = await administration.key()
    async with httpx.AsyncClient(base_url=stack.url, headers=bearer(key.text), timeout=120, trust_env=False) as client:
        path = f"/v1/knowledge-bases/{BASE}"
        sent = {"documents": [document(number) for number in range(DOCUMENTS)]}
        assert (await client.post(f"{path}/documents", json=sent)).status_code == 200
        before = await answers(client)

        seen: list[int] = []

        async def settled() -> bool:
            """Return whether every question is in the ledger, and nothing has come for five looks."""
            seen.append(len(await administration.attempts(key.tenant)))
            await asyncio.sleep(0.2)
            return seen[-1] >= QUESTIONS and seen[-5:] == [seen[-1]] * 5

        await eventually(settled, timeout_s=60)
        ledger = await books(administration, key.tenant)
        counted = (await client.get(path)).json()
        await asyncio.to_thread(deploy, "backup", stack, tmp_path / "backup")
        await asyncio.to_thread(stack.compose.run, "down", "--volumes")
        await asyncio.to_thread(deploy, "restore", stack, tmp_path / "backup")
        await asyncio.to_thread(stack.await_serving, SETTINGS.compose_ready_s)
        shutil.rmtree(tmp_path / "backup")
        after = (await client.get(path)).json()
        assert after["document_count"] == counted["document_count"] == DOCUMENTS
        assert after["chunk_count"] == counted["chunk_count"]
        assert await books(administration, key.tenant) == ledger
        assert await answers(client) == before
