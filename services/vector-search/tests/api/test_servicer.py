"""The calls over a real server and a real stub, on SQLite and either of Milvus Lite and memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from penstock.embedding.v1 import embedding_pb2
from penstock.vector_search.v1 import vector_search_pb2 as pb
from penstock.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit.errors import Conflict, Forbidden, InvalidInput, NotFound
from servicekit.rpc import Channel
from servicekit.testing import caller, serving
from vector_search.adapters.milvus import MilvusLite
from vector_search.adapters.sqlite import SqliteLog
from vector_search.api.servicer import vector_search_api
from vector_search.core.sized import Limits, SizedIndex
from vector_search_fakes import DIMENSIONS, entry_of, running, vector_of

ENCODER = embedding_pb2.Encoder(model="tiny", version="1", digest="sha256:" + "a" * 64, dimensions=DIMENSIONS)
OTHER = embedding_pb2.Encoder(model="tiny", version="2", digest="sha256:" + "b" * 64, dimensions=DIMENSIONS)


class Client:
    """Calls by name, as the stub has them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = pb_grpc.VectorSearchServiceStub(channel.grpc)

    async def __call__(self, method: str, request: object) -> object:
        return await self._channel.call(getattr(self._stub, method), request, timeout_s=10)


@pytest.fixture(params=[0, 1_000], ids=["milvus", "memory"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Client]:
    with SqliteLog(tmp_path / "log.sqlite") as log, MilvusLite(tmp_path / "index.db") as index:
        async with (
            running(log, SizedIndex(index, log, Limits(request.param, 1_000_000))) as made,
            serving(vector_search_api(made.store)) as address,
            Channel(address) as channel,
        ):
            yield Client(channel)


def upsert(document_id: str, *texts: str, **changes: object) -> pb.UpsertDocumentRequest:
    entry = entry_of(document_id, *texts)
    metadata = Struct()
    metadata.update({"lang": "en", "year": 2024, "open": True})
    request = pb.UpsertDocumentRequest(
        knowledge_base="kb",
        document=pb.Document(
            id=document_id, title="A title", content_hash=entry.document.content_hash, metadata=metadata
        ),
        chunks=[pb.Chunk(index=chunk.index, text=chunk.text, start=0, end=chunk.end) for chunk in entry.chunks],
        vectors=entry.vectors.tobytes(),
        encoder=ENCODER,
    )
    request.MergeFrom(pb.UpsertDocumentRequest(**changes))
    return request


def holding(field: str, value: Value) -> pb.Document:
    return pb.Document(metadata=Struct(fields={field: value}))


def search(text: str, **changes: object) -> pb.SearchRequest:
    request = pb.SearchRequest(knowledge_base="kb", text=text, vector=vector_of(text).tobytes(), encoder=ENCODER)
    request.MergeFrom(pb.SearchRequest(**changes))
    return request


async def test_a_document_is_stored_found_listed_and_deleted(client: Client) -> None:
    with caller("acme"):
        stored = await client("UpsertDocument", upsert("d", "red fox", "blue hen"))
        assert (stored.changed, stored.document.chunk_count) == (True, 2)
        found = await client("Search", search("red fox", min_revision=stored.revision))
        hit = found.hits[0]
        assert (hit.document_id, hit.document_title, hit.chunk.text) == ("d", "A title", "red fox")
        assert hit.cosine == pytest.approx(1.0, abs=1e-5)
        assert hit.metadata["year"] == 2024
        assert hit.content_hash == stored.document.content_hash
        got = await client("GetDocument", pb.GetDocumentRequest(knowledge_base="kb", id="d"))
        assert [chunk.text for chunk in got.chunks] == ["red fox", "blue hen"]
        base = (await client("GetKnowledgeBase", pb.GetKnowledgeBaseRequest(name="kb"))).knowledge_base
        assert (base.document_count, base.chunk_count, base.revision) == (1, 2, stored.revision)
        gone = await client("DeleteDocument", pb.DeleteDocumentRequest(knowledge_base="kb", id="d"))
        assert gone.revision == stored.revision + 1
        assert not (await client("Search", search("red fox"))).hits
        assert (await client("DeleteKnowledgeBase", pb.DeleteKnowledgeBaseRequest(name="kb"))).deleted_documents == 0


async def test_pages_list_every_document_once(client: Client) -> None:
    with caller("acme"):
        for number in range(5):
            await client("UpsertDocument", upsert(f"d{number}", f"text {number}"))
        seen, token = [], ""
        while True:
            request = pb.ListDocumentsRequest(knowledge_base="kb", page_size=2, page_token=token)
            page = await client("ListDocuments", request)
            seen += [document.id for document in page.documents]
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"d{number}" for number in range(5)]


async def test_another_tenant_sees_nothing(client: Client) -> None:
    with caller("acme"):
        await client("UpsertDocument", upsert("d", "red fox"))
    for tenant in ('globex" or tenant != "', "ACME", "acme'--", "ä" * 300):
        with caller(tenant):
            assert not (await client("ListKnowledgeBases", pb.ListKnowledgeBasesRequest())).knowledge_bases
            for method, request in (
                ("Search", search("red fox")),
                ("GetDocument", pb.GetDocumentRequest(knowledge_base="kb", id="d")),
                ("DeleteDocument", pb.DeleteDocumentRequest(knowledge_base="kb", id="d")),
                ("DeleteKnowledgeBase", pb.DeleteKnowledgeBaseRequest(name="kb")),
            ):
                with pytest.raises(NotFound):
                    await client(method, request)


@pytest.mark.parametrize("value", ['en" or year != "', "en\\", "' or 1=1 --", "\u202e\x00", "x" * 100_000])
async def test_hostile_filter_values_match_nothing(client: Client, value: str) -> None:
    with caller("acme"):
        await client("UpsertDocument", upsert("d", "red fox"))
        condition = pb.Condition(field="lang", comparison=pb.COMPARISON_EQUAL, value=Value(string_value=value))
        assert not (await client("Search", search("red fox", filter=[condition]))).hits


async def test_filters(client: Client) -> None:
    with caller("acme"):
        await client("UpsertDocument", upsert("d", "red fox"))
        years = Value(list_value=ListValue(values=[Value(number_value=2023), Value(number_value=2024)]))
        inside = pb.Condition(field="year", comparison=pb.COMPARISON_IN, value=years)
        assert len((await client("Search", search("red fox", filter=[inside]))).hits) == 1
        missing = pb.Condition(field="none", comparison=pb.COMPARISON_NOT_EQUAL, value=Value(string_value="x"))
        assert not (await client("Search", search("red fox", filter=[missing]))).hits


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (upsert("d", "red", knowledge_base="KB "), "knowledge_base"),
        (upsert("d/../e", "red"), "document.id"),
        (upsert("d", "red", document=pb.Document(content_hash="md5:1")), "document.content_hash"),
        (upsert("d", "red", vectors=b"\0\0\0\0"), "vectors"),
        (upsert("d", "red", chunks=[pb.Chunk(index=1, text="x", end=1)]), "vectors"),
        (upsert("d", "red", document=holding("a", Value(null_value=0))), "document.metadata.a"),
        (upsert("d", "red", document=holding("a b", Value(bool_value=True))), "document.metadata"),
        (search("red", top_k=101), "top_k"),
        (search("red", vector=b"\0\0\0\0"), "vector"),
        (search("red", filter=[pb.Condition(field="a")]), "filter[0].comparison"),
        (search("red", filter=[pb.Condition(field="a", comparison=pb.COMPARISON_IN)]), "filter[0].value"),
        (search("red", min_revision=10), "min_revision"),
        (pb.ListDocumentsRequest(knowledge_base="kb", page_token="ä"), "page_token"),
        (pb.ListDocumentsRequest(knowledge_base="kb", page_size=1_001), "page_size"),
    ],
)  # fmt: skip
async def test_bad_input_names_the_field(client: Client, request_: object, field: str) -> None:
    methods = {
        pb.UpsertDocumentRequest: "UpsertDocument",
        pb.SearchRequest: "Search",
        pb.ListDocumentsRequest: "ListDocuments",
    }
    with caller("acme"):
        await client("CreateKnowledgeBase", pb.CreateKnowledgeBaseRequest(name="kb", encoder=ENCODER))
        with pytest.raises(InvalidInput) as raised:
            await client(methods[type(request_)], request_)
    assert raised.value.field == field


async def test_another_encoder_conflicts(client: Client) -> None:
    with caller("acme"):
        await client("UpsertDocument", upsert("d", "red fox"))
        with pytest.raises(Conflict, match="ingest the documents again") as raised:
            await client("Search", search("red fox", encoder=OTHER))
    assert raised.value.reason == "encoder_mismatch"


async def test_writing_needs_its_scope(client: Client) -> None:
    with caller("acme", scopes=["knowledge:read"]), pytest.raises(Forbidden):
        await client("UpsertDocument", upsert("d", "red fox"))
