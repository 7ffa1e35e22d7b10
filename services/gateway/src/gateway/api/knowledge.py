"""/v1/knowledge-bases: knowledge bases, their documents as they are kept, and search."""

from typing import Annotated, Any, Literal

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from pydantic import Field
from servicekit.errors import InvalidInput
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import Body, json_response, read
from gateway.api.calls import Calls
from gateway.api.filters import conditions
from gateway.api.render import chunk_json, document_json, hit_json, knowledge_base_json

LARGEST_PAGE = 1000
Revision = Annotated[int, Field(ge=0, lt=2**63, description="read your writes: at least this revision is searched")]
Filter = Annotated[
    dict[str, Any], Field(description='`{"field": value}` or `{"field": {"gte": 3, "in": [1, 2]}}`; all must pass')
]
MODES = {
    "hybrid": vectors.SEARCH_MODE_HYBRID,
    "dense": vectors.SEARCH_MODE_DENSE,
    "lexical": vectors.SEARCH_MODE_LEXICAL,
}


class CreateKnowledgeBaseRequest(Body):
    """A knowledge base to be."""

    name: Annotated[str, Field(description="1 to 64 of a-z, 0-9, `-`, `_`, `.`; begins with a letter or digit")]


class SearchRequest(Body):
    """What to look for in a knowledge base."""

    query: Annotated[str, Field(min_length=1, max_length=8192)]
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    mode: Literal["hybrid", "dense", "lexical"] = "hybrid"
    filter: Filter | None = None
    min_revision: Revision = 0


class KnowledgeRoutes:
    """Knowledge bases and what is in them."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def list(self, _: Request) -> Response:
        """List the knowledge bases by name."""
        listed = await self._calls.list_knowledge_bases()
        return json_response({"object": "list", "data": [knowledge_base_json(base) for base in listed.knowledge_bases]})

    async def create(self, request: Request) -> Response:
        """Create an empty knowledge base bound to the current encoder; the same name again returns what is there."""
        asked = await read(request, CreateKnowledgeBaseRequest)
        return json_response(knowledge_base_json(await self._calls.create_knowledge_base(asked.name)))

    async def get(self, request: Request) -> Response:
        """Return one knowledge base."""
        return json_response(knowledge_base_json(await self._calls.get_knowledge_base(_name(request))))

    async def delete(self, request: Request) -> Response:
        """Delete a knowledge base with all it holds."""
        name = _name(request)
        deleted = await self._calls.delete_knowledge_base(name)
        return json_response(
            {"object": "knowledge_base.deleted", "name": name, "deleted": True, "deleted_documents": deleted}
        )

    async def search(self, request: Request) -> Response:
        """Embed a question and search a knowledge base, best first."""
        asked = await read(request, SearchRequest)
        found = await self._calls.search(
            pb.SearchRequest(
                knowledge_base=_name(request),
                text=asked.query,
                top_k=asked.top_k,
                filter=conditions(asked.filter),
                mode=MODES[asked.mode],
                min_revision=asked.min_revision,
            )
        )
        return json_response(
            {"object": "list", "data": [hit_json(hit) for hit in found.hits], "revision": found.revision}
        )

    async def list_documents(self, request: Request) -> Response:
        """List documents by id, a page at a time."""
        size, token = _page_size(request), request.query_params.get("page_token", "")
        page = await self._calls.list_documents(_name(request), size, token)
        return json_response(
            {
                "object": "list",
                "data": [document_json(document) for document in page.documents],
                "next_page_token": page.next_page_token or None,
            }
        )

    async def get_document(self, request: Request) -> Response:
        """Return a document with its chunks."""
        found = await self._calls.get_document(_name(request), request.path_params["document"])
        return json_response({**document_json(found.document), "chunks": [chunk_json(chunk) for chunk in found.chunks]})

    async def delete_document(self, request: Request) -> Response:
        """Delete a document with its chunks."""
        document = request.path_params["document"]
        revision = await self._calls.delete_document(_name(request), document)
        return json_response({"object": "document.deleted", "id": document, "deleted": True, "revision": revision})


def _name(request: Request) -> str:
    return str(request.path_params["knowledge_base"])


def _page_size(request: Request) -> int:
    asked = request.query_params.get("page_size", "100")
    if not (asked.isascii() and asked.isdigit()) or len(asked) > 9 or not 1 <= int(asked) <= LARGEST_PAGE:
        raise InvalidInput(f"page_size is a whole number, 1 to {LARGEST_PAGE}", field="page_size")
    return int(asked)
