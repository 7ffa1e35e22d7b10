"""One request is one trace, through every service it passed."""

import json

import httpx
import pytest
from servicekit.testing import eventually
from stack_process import RunningStack

pytestmark = pytest.mark.usefixtures("local_processes")


def spans(stack: RunningStack, trace_id: str) -> list[dict[str, object]]:
    """Return the spans of a trace as the command line has them."""
    done = stack.penstock("trace", trace_id, "--json", check=False)
    return list(json.loads(done.stdout)) if done.returncode == 0 else []


async def traced(stack: RunningStack, response: httpx.Response, services: set[str]) -> list[dict[str, object]]:
    """Wait until the trace of a response holds the services; return its spans."""
    trace_id = response.headers["x-request-id"]
    await eventually(lambda: {str(span["service"]) for span in spans(stack, trace_id)} >= services, timeout_s=15)
    return spans(stack, trace_id)


async def test_a_question_is_one_tree_through_five_services(stack: RunningStack, rest: httpx.AsyncClient) -> None:
    text = "Turbine blades of the Kaplan type turn with the flow of the river."
    documents = {"documents": [{"id": "k", "media_type": "text/plain", "text": text}]}
    assert (await rest.post("/v1/knowledge-bases/traces/documents", json=documents)).status_code == 200
    question = "Which turbine blades turn with the flow, in the traced question?"
    response = await rest.post("/v1/ask", json={"knowledge_base": "traces", "question": question})
    found = await traced(stack, response, {"gateway", "orchestrator", "embedding", "vector-search", "inference"})
    known = {span["span_id"] for span in found}
    assert len([span for span in found if span["parent_id"] not in known]) == 1
    operations = {dict(span["attributes"]).get("gen_ai.operation.name") for span in found}  # type: ignore[call-overload]
    assert {"chat", "embeddings", "retrieval"} <= operations
    everything = json.dumps(found)
    assert "Kaplan" not in everything
    assert "traced question" not in everything


async def test_a_feature_read_is_one_tree(stack: RunningStack, rest: httpx.AsyncClient) -> None:
    response = await rest.get("/v1/features")
    found = await traced(stack, response, {"gateway", "feature-store"})
    known = {span["span_id"] for span in found}
    assert len([span for span in found if span["parent_id"] not in known]) == 1
