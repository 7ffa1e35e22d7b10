"""The REST door: every route in one list, and the FastAPI application made of it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from servicekit.identity import Identity
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import feature_responses as shown_features
from gateway.api import responses as shown
from gateway.api.ask import AskRequest, AskRoutes
from gateway.api.body import json_response
from gateway.api.calls import Calls
from gateway.api.chat import ChatRoutes
from gateway.api.chat_request import ChatRequest
from gateway.api.embeddings import EmbeddingsRequest, EmbeddingsRoutes
from gateway.api.errors import SHORTEST_RETRY_S, MethodNotAllowed, NoRoute
from gateway.api.features import FeatureRoutes, PushRequest, ReadRequest
from gateway.api.ingest import IngestRequest, IngestRoutes
from gateway.api.knowledge import CreateKnowledgeBaseRequest, KnowledgeRoutes, SearchRequest
from gateway.api.middleware import Door, Endpoint, Failures
from gateway.api.models import ModelRoutes
from gateway.api.openapi import Shape, extra_of, page, responses_of
from gateway.core.accounts import Account

NO_TELEMETRY: Final[TelemetryConfig] = {"tracing": False, "metrics": False, "logs": False}
"""The door opens the one server span of a request; FastAPI would open a second one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may take, when it does not say less: seconds, and bytes of its body."""

    default_timeout_s: float = 60.0
    max_body_bytes: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    name: str
    method: str
    path: str
    endpoint: Endpoint
    shape: Shape

    @property
    def tag(self) -> str:
        """The group it is shown in: the second segment of its path, and one for all of OIP."""
        return "oip" if self.shape.oip else self.path.split("/")[2]


def operations(calls: Calls) -> list[Operation]:
    """Return everything REST offers under /v1."""
    chat, embeddings, models = ChatRoutes(calls), EmbeddingsRoutes(calls), ModelRoutes(calls)
    knowledge, ingest, asking, features = (
        KnowledgeRoutes(calls),
        IngestRoutes(calls),
        AskRoutes(calls),
        FeatureRoutes(calls),
    )
    bases, base = "/v1/knowledge-bases", "/v1/knowledge-bases/{knowledge_base}"
    documents, document = f"{base}/documents", f"{base}/documents/{{document}}"
    return [
        Operation("chat", "POST", "/v1/chat/completions", chat.complete,
                  Shape(shown.ChatCompletion, ChatRequest, streams=True)),
        Operation("embed", "POST", "/v1/embeddings", embeddings.create, Shape(shown.Embeddings, EmbeddingsRequest)),
        Operation("list_models", "GET", "/v1/models", models.list, Shape(shown.Models)),
        Operation("get_model", "GET", "/v1/models/{model:path}", models.get, Shape(shown.Model)),
        Operation("ask", "POST", "/v1/ask", asking.ask, Shape(shown.Answer, AskRequest, streams=True)),
        Operation("get_provenance", "GET", "/v1/provenance/{answer}", asking.provenance, Shape(shown.Provenance)),
        Operation("list_knowledge_bases", "GET", bases, knowledge.list, Shape(shown.KnowledgeBases)),
        Operation("create_knowledge_base", "POST", bases, knowledge.create,
                  Shape(shown.KnowledgeBase, CreateKnowledgeBaseRequest)),
        Operation("get_knowledge_base", "GET", base, knowledge.get, Shape(shown.KnowledgeBase)),
        Operation("delete_knowledge_base", "DELETE", base, knowledge.delete, Shape(shown.KnowledgeBaseDeleted)),
        Operation("search", "POST", f"{base}/search", knowledge.search, Shape(shown.Hits, SearchRequest)),
        Operation("list_documents", "GET", documents, knowledge.list_documents,
                  Shape(shown.Documents, query=("page_size", "page_token"))),
        Operation("ingest_documents", "POST", documents, ingest.add,
                  Shape(shown.Ingest, IngestRequest, streams=True, files=True)),
        Operation("get_document", "GET", document, knowledge.get_document, Shape(shown.DocumentWithChunks)),
        Operation("delete_document", "DELETE", document, knowledge.delete_document, Shape(shown.DocumentDeleted)),
        Operation("list_feature_views", "GET", "/v1/features", features.views, Shape(shown_features.FeatureViews)),
        Operation("get_features", "POST", "/v1/features/read", features.read,
                  Shape(shown_features.FeatureRows, ReadRequest)),
        Operation("push_features", "POST", "/v1/features/push", features.push,
                  Shape(shown_features.FeaturePush, PushRequest)),
    ]  # fmt: skip


def rest_app(
    calls: Calls,
    authenticate: Callable[[str], Awaitable[tuple[Identity, Account]]],
    readiness: Callable[[], Awaitable[str | None]],
    limits: Limits = Limits(),
    more: Sequence[Operation] = (),
) -> Door:
    """Return the application behind the door: the operations and more, health without a key, the OpenAPI page."""
    app = FastAPIOffline(
        title="Penstock", version="0.1.0", redoc_url=None, redirect_slashes=False, telemetry=NO_TELEMETRY
    )
    offered = [*operations(calls), *more]
    for operation in offered:
        app.add_api_route(
            operation.path,
            operation.endpoint,
            methods=[operation.method],
            operation_id=operation.name,
            summary=operation.name.replace("_", " ").capitalize(),
            tags=[operation.tag],
            response_model=None,
            response_class=Response,
            responses=responses_of(operation.shape),
            openapi_extra=extra_of(operation.path, operation.shape),
        )
    _add_health(app, readiness)
    bodies = [operation.shape.body for operation in offered if operation.shape.body is not None]
    app.openapi = partial(page, app, bodies)  # type: ignore[method-assign]  # FastAPI's documented way
    app.add_exception_handler(HTTPException, _raise_ours)
    app.add_middleware(Failures)
    fixed = {(each.method, each.path): each.endpoint for each in offered if "{" not in each.path}
    return Door(
        app,
        fixed,
        authenticate=authenticate,
        default_timeout_s=limits.default_timeout_s,
        max_body_bytes=limits.max_body_bytes,
    )


def _add_health(app: FastAPI, readiness: Callable[[], Awaitable[str | None]]) -> None:
    async def live(_: Request) -> Response:
        return json_response({"status": "live"})

    async def ready(_: Request) -> Response:
        reason = await readiness()
        if reason is None:
            return json_response({"status": "ready"})
        response = json_response({"status": "not_ready", "reason": reason})
        response.status_code = 503
        response.headers["Retry-After"] = str(SHORTEST_RETRY_S)
        return response

    app.add_api_route("/healthz/live", live, tags=["health"], response_model=None)
    app.add_api_route("/healthz/ready", ready, tags=["health"], response_model=None)


async def _raise_ours(request: Request, error: Exception) -> NoReturn:
    """Turn what the router raises into our own errors; the door answers them."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        raise MethodNotAllowed(f"{request.method} is not for this path", allow=(error.headers or {}).get("Allow", ""))
    raise NoRoute(f"there is nothing at {request.url.path}")
