"""Passages are ranked again where the operator says so; without the ranker the search's order stays, and it is said."""

import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from servicekit.testing import eventually
from stack_process import RunningStack, running_stack
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_processes")]
PORT_OFFSET = 16_000
TRITON = f"127.0.0.1:{8091 + PORT_OFFSET}"
RANKER = "passage-ranker"
DAMS = {
    "hoover": "The Hoover Dam was completed in 1936. It stands in the Black Canyon of the Colorado River.",
    "volta": "The Volta hydroelectric plant was opened in 1965 by the engineer Ama Mensah.",
    "itaipu": "The Itaipu Dam on the Parana River went into service in 1984 after years of building.",
    "bread": "Sourdough bread rises because wild yeast ferments the dough for twelve hours.",
}
QUESTION = "Which engineer opened the Volta plant?"


@pytest.fixture(scope="module")
def reranking() -> Iterator[RunningStack]:
    """A stack whose pipeline ranks passages again."""
    settings = {"ORCHESTRATOR_RERANKER": RANKER}
    with (
        tempfile.TemporaryDirectory(prefix="penstock-reranking-") as folder,
        running_stack(Path(folder), PORT_OFFSET, settings) as running,
    ):
        yield running


@pytest.fixture
async def client(reranking: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {reranking.api_key}"}
    async with httpx.AsyncClient(base_url=reranking.url, headers=headers, timeout=60, trust_env=False) as session:
        documents = [{"id": name, "media_type": "text/plain", "text": text} for name, text in DAMS.items()]
        stored = await session.post("/v1/knowledge-bases/dams/documents", json={"documents": documents})
        assert stored.status_code == 200, stored.text
        yield session


async def asked(client: httpx.AsyncClient) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return an answer, its provenance and its trace id."""
    response = await client.post("/v1/ask", json={"knowledge_base": "dams", "question": QUESTION})
    answer = response.json()
    assert response.status_code == 200, answer
    provenance = (await client.get(f"/v1/provenance/{answer['id']}")).json()
    return answer, provenance, response.headers["x-request-id"]


def has_span(stack: RunningStack, trace_id: str, name: str) -> bool:
    done = stack.penstock("trace", trace_id, "--json", check=False)
    return done.returncode == 0 and name in [span["name"] for span in json.loads(done.stdout)]


async def test_an_outage_of_the_ranker_costs_its_order_and_nothing_else(
    reranking: RunningStack, client: httpx.AsyncClient
) -> None:
    answer, provenance, trace_id = await asked(client)
    assert answer["degradations"] == []
    assert "rerank" in answer["timings_ms"]
    assert answer["passages"][0]["document_id"] == "volta"
    assert "Ama Mensah" in answer["answer"]
    assert provenance["reranked_by"]["model"] == RANKER
    assert provenance["reranked_by"]["digest"].startswith("sha256:")
    await eventually(lambda: has_span(reranking, trace_id, "rerank"), timeout_s=15)
    await eventually(lambda: has_span(reranking, trace_id, f"infer {RANKER}"), timeout_s=15)

    async with grpc.aio.insecure_channel(TRITON) as channel:
        triton = oip_grpc.GRPCInferenceServiceStub(channel)
        await triton.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name=RANKER))
        without, provenance, _ = await asked(client)
        assert [each["step"] for each in without["degradations"]] == ["rerank"]
        assert without["degradations"][0]["reason"] in ("not_loaded", "loading", "backend_failed")
        assert without["answer"] == answer["answer"]
        assert provenance["reranked_by"] is None

        await triton.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name=RANKER))

    async def back() -> bool:
        return not (await asked(client))[0]["degradations"]

    await eventually(back, timeout_s=30)
