"""A document goes in, a question comes back answered from it, over REST, gRPC and the official client."""

import json

import grpc
import httpx
import openai
import pytest
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1 import gateway_pb2_grpc as pb_grpc
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import ingest_pb2 as ingest
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from stack_process import RunningStack

RIVER = (
    "The Volta hydroelectric plant was opened in 1965 by the engineer Ama Mensah. "
    "Its six turbines produce 912 megawatts of power. The reservoir behind the dam covers 8,502 square kilometres."
)
BREAD = "Sourdough bread rises because wild yeast ferments the dough for twelve hours. It is baked at 240 degrees."
QUESTION = "Who opened the Volta hydroelectric plant?"


@pytest.fixture
async def knowledge(rest: httpx.AsyncClient) -> str:
    """A knowledge base with two documents."""
    documents = [
        {"id": "volta", "title": "Volta", "media_type": "text/plain", "text": RIVER, "metadata": {"topic": "power"}},
        {"id": "bread", "title": "Bread", "media_type": "text/plain", "text": BREAD, "metadata": {"topic": "food"}},
    ]
    response = await rest.post("/v1/knowledge-bases/journey/documents", json={"documents": documents})
    assert response.status_code == 200, response.text
    assert [result["status"] for result in response.json()["results"]] == ["stored", "stored"]
    return "journey"


async def test_a_question_is_answered_with_a_verified_citation(rest: httpx.AsyncClient, knowledge: str) -> None:
    response = await rest.post("/v1/ask", json={"knowledge_base": knowledge, "question": QUESTION})
    answer = response.json()
    assert response.status_code == 200, answer
    assert "Ama Mensah" in answer["answer"]
    assert not answer["declined"]
    assert answer["rung"] == "chosen_model"
    citation = answer["citations"][0]
    assert citation["document_id"] == "volta"
    assert RIVER[citation["start"] : citation["end"]] == citation["quote"]
    assert answer["groundedness"] > 0.9
    assert set(answer["timings_ms"]) >= {"embed", "search", "prompt", "generate", "ground"}


async def test_provenance_resolves_and_is_the_tenants_own(rest: httpx.AsyncClient, knowledge: str) -> None:
    answer = (await rest.post("/v1/ask", json={"knowledge_base": knowledge, "question": QUESTION})).json()
    provenance = (await rest.get(f"/v1/provenance/{answer['id']}")).json()
    assert provenance["served"]["model"] == "extractive-reader"
    assert provenance["served"]["digest"].startswith("sha256:")
    assert provenance["prompt_template_digest"].startswith("sha256:")
    assert provenance["encoder_digest"].startswith("sha256:")
    assert provenance["passages"][0]["document_id"] == "volta"
    assert provenance["knowledge_base_revision"] >= 2
    assert (await rest.get("/v1/provenance/ans_none")).status_code == 404


async def test_what_the_passages_do_not_say_is_declined(rest: httpx.AsyncClient, knowledge: str) -> None:
    body = {"knowledge_base": knowledge, "question": "Which chess champion defeated Boris Spassky in Reykjavik?"}
    answer = (await rest.post("/v1/ask", json=body)).json()
    assert answer["declined"]
    assert answer["citations"] == []


async def test_streamed_text_is_the_answers_text(rest: httpx.AsyncClient, knowledge: str) -> None:
    body = {"knowledge_base": knowledge, "question": QUESTION, "stream": True}
    pieces, last, name = [], None, ""
    async with rest.stream("POST", "/v1/ask", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if name == "text":
                    pieces.append(event["text"])
                else:
                    last = event
    assert last is not None
    assert "".join(pieces) == last["answer"]
    assert last["citations"]


async def test_a_generative_upstream_answers_through_the_same_pipeline(rest: httpx.AsyncClient, knowledge: str) -> None:
    body = {"knowledge_base": knowledge, "question": QUESTION, "model": "fast-upstream"}
    answer = (await rest.post("/v1/ask", json=body)).json()
    assert answer["served"]["provider"] == "openai"
    assert answer["rung"] == "chosen_model"
    assert answer["citations"][0]["document_id"] == "volta"


async def test_filters_narrow_the_search(rest: httpx.AsyncClient, knowledge: str) -> None:
    search = {"query": QUESTION, "filter": {"topic": "food"}}
    hits = (await rest.post(f"/v1/knowledge-bases/{knowledge}/search", json=search)).json()["data"]
    assert {hit["document_id"] for hit in hits} == {"bread"}


async def test_a_document_twice_changes_nothing_and_deleting_removes_it(rest: httpx.AsyncClient) -> None:
    documents = {"documents": [{"id": "a", "media_type": "text/plain", "text": BREAD}]}
    first = (await rest.post("/v1/knowledge-bases/twice/documents", json=documents)).json()["results"][0]
    second = (await rest.post("/v1/knowledge-bases/twice/documents", json=documents)).json()["results"][0]
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["revision"] == second["revision"]
    assert (await rest.get("/v1/knowledge-bases/twice")).json()["document_count"] == 1
    assert (await rest.delete("/v1/knowledge-bases/twice/documents/a")).status_code in {200, 204}
    assert (await rest.get("/v1/knowledge-bases/twice")).json()["chunk_count"] == 0
    assert (await rest.delete("/v1/knowledge-bases/twice")).status_code in {200, 204}
    assert (await rest.get("/v1/knowledge-bases/twice")).status_code == 404


async def test_the_official_client_works(stack: RunningStack, knowledge: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0) as client:
        messages = [{"role": "user", "content": QUESTION}]
        plain = await client.chat.completions.create(model=f"rag:{knowledge}", messages=messages)
        assert "Ama Mensah" in plain.choices[0].message.content
        assert plain.choices[0].finish_reason == "stop"
        assert plain.penstock["citations"][0]["document_id"] == "volta"
        options = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="fast-upstream", messages=messages, stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[-1].choices == []
        assert chunks[-1].usage.total_tokens > 0
        assert chunks[-2].choices[0].finish_reason == "stop"
        default = await client.embeddings.create(model="minilm-l6", input=["a river", "a loaf of bread"])
        floats = await client.embeddings.create(
            model="minilm-l6", input=["a river", "a loaf of bread"], encoding_format="float"
        )
        assert len(default.data[0].embedding) == 384
        assert default.data[1].embedding == pytest.approx(floats.data[1].embedding, abs=1e-6)
        names = [model.id async for model in client.models.list()]
        assert {"minilm-l6", "extractive-reader", f"rag:{knowledge}"} <= set(names)
        assert (await client.models.retrieve(f"rag:{knowledge}")).id == f"rag:{knowledge}"


async def test_the_built_in_reader_says_what_it_is(stack: RunningStack) -> None:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key) as client:
        messages = [{"role": "user", "content": "Write a poem"}]
        answer = await client.chat.completions.create(model="extractive-reader", messages=messages)
    assert "built-in" in answer.choices[0].message.content
    assert "catalogue" in answer.choices[0].message.content


async def test_the_typed_door_has_the_same_calls(stack: RunningStack) -> None:
    metadata = (("authorization", f"Bearer {stack.api_key}"),)
    async with grpc.aio.insecure_channel(stack.grpc) as channel:
        door = pb_grpc.GatewayServiceStub(channel)
        documents = [ingest.SourceDocument(id="volta", media_type="text/plain", content=RIVER.encode())]
        stages = [
            event.progress.stage
            async for event in door.IngestDocuments(
                pb.IngestDocumentsRequest(knowledge_base="typed", documents=documents), metadata=metadata
            )
        ]
        assert stages[-1] == ingest.INGEST_STAGE_STORED
        question = orchestrator.Question(knowledge_base="typed", text=QUESTION)
        answered = await door.Ask(pb.AskRequest(question=question), metadata=metadata)
        assert "Ama Mensah" in answered.answer.text
        streamed = [event async for event in door.StreamAsk(pb.StreamAskRequest(question=question), metadata=metadata)]
        assert "".join(event.text for event in streamed[:-1]) == streamed[-1].answer.text
        conversation = pb.Conversation(model="rag:typed", messages=[inference.Message(role="user", content=QUESTION)])
        chatted = await door.Chat(pb.ChatRequest(conversation=conversation), metadata=metadata)
        assert chatted.answer.citations
        embedded = await door.Embed(pb.EmbedRequest(texts=["a river"]), metadata=metadata)
        assert len(embedded.vectors) == 4 * embedded.encoder.dimensions
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await door.ListModels(pb.ListModelsRequest())
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        call = reflect()
        await call.write(b"\x3a\x01*")
        assert b"penstock.gateway.v1.GatewayService" in await call.read()
        call.cancel()


async def test_features_come_with_their_age(rest: httpx.AsyncClient) -> None:
    views = (await rest.get("/v1/features")).json()["data"]
    assert {"user_profile", "item_stats"} <= {view["name"] for view in views}
    view = next(view for view in views if view["name"] == "user_profile")
    names = [f"user_profile:{feature['name']}" for feature in view["features"]]
    body = {"features": names, "entities": [{"user_id": "u1"}, {"user_id": "nobody"}]}
    rows = (await rest.post("/v1/features/read", json=body)).json()["data"]
    known, unknown = ({value["status"] for value in row["values"]} for row in rows)
    assert known <= {"present", "stale"}
    assert unknown == {"missing"}
