"""POST /v1/knowledge-bases/{kb}/documents: documents as JSON or as files, with news of each when asked for."""

import base64
import binascii
import mimetypes
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import PurePath
from typing import Annotated, Any, Final

import orjson
from google.protobuf.struct_pb2 import Struct
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.orchestrator.v1 import ingest_pb2 as ingest
from pydantic import Field
from servicekit.errors import InvalidInput
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import Body, json_response, read
from gateway.api.calls import Calls
from gateway.api.event_stream import EventStream, event_bytes
from gateway.api.render import Json, enum_names

MOST_DOCUMENTS: Final = 1000
STAGES: Final = enum_names(ingest.IngestStage, "INGEST_STAGE_")
MEDIA_TYPES: Final = {".md": "text/markdown", ".markdown": "text/markdown", ".htm": "text/html"}
ENDS: Final = (ingest.INGEST_STAGE_STORED, ingest.INGEST_STAGE_REJECTED)
_NOT_IN_AN_ID: Final = re.compile(r"[^A-Za-z0-9_.:-]+")

Metadata = dict[str, str | bool | int | Annotated[float, Field(allow_inf_nan=False)]]


class DocumentBody(Body):
    """A document: `text`, or the base64 of its bytes in `content_base64`."""

    id: Annotated[str, Field(min_length=1, max_length=128)]
    title: str = ""
    media_type: Annotated[str, Field(description="text/plain, text/markdown, text/html or application/pdf")] = (
        "text/plain"
    )
    text: str | None = None
    content_base64: str | None = None
    metadata: Metadata = Field(default_factory=dict)


class IngestRequest(Body):
    """Documents to take in."""

    documents: Annotated[list[DocumentBody], Field(min_length=1, max_length=MOST_DOCUMENTS)]


class IngestRoutes:
    """Ingestion: one bad document does not stop the others."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def add(self, request: Request) -> Response:
        """Take documents in; `Accept: text/event-stream` gives news of each as it goes, else one JSON of outcomes."""
        documents = await _documents(request)
        asked = pb.IngestDocumentsRequest(knowledge_base=request.path_params["knowledge_base"], documents=documents)
        if "text/event-stream" in request.headers.get("accept", ""):
            return EventStream(self._events(asked))
        outcomes: dict[int, Json] = {}
        async with aclosing(self._calls.ingest(asked)) as events:
            async for event in events:
                _keep(outcomes, event.progress)
        return json_response(_summary(outcomes))

    async def _events(self, asked: pb.IngestDocumentsRequest) -> AsyncGenerator[bytes, None]:
        outcomes: dict[int, Json] = {}
        async with aclosing(self._calls.ingest(asked)) as events:
            async for event in events:
                _keep(outcomes, event.progress)
                yield event_bytes(orjson.dumps(_progress_json(event.progress)), "progress")
        yield event_bytes(orjson.dumps(_summary(outcomes)), "results")


async def _documents(request: Request) -> list[ingest.SourceDocument]:
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        try:
            async with request.form(max_files=MOST_DOCUMENTS, max_fields=1) as form:
                return await _from_files(form)
        except HTTPException as error:
            raise InvalidInput(f"the form cannot be read: {error.detail}", reason="malformed_form") from error
    asked = await read(request, IngestRequest)
    return [_from_body(document, position) for position, document in enumerate(asked.documents)]


async def _from_files(form: FormData) -> list[ingest.SourceDocument]:
    documents: list[ingest.SourceDocument] = []
    for name, part in form.multi_items():
        if name != "files" or not isinstance(part, UploadFile):
            raise InvalidInput("the form takes files under the name `files`, nothing else", field=name)
        documents.append(_from_file(part.filename or "", part.content_type or "", await part.read()))
    if not documents:
        raise InvalidInput("at least one file is needed", field="files")
    return documents


def _from_file(filename: str, content_type: str, content: bytes) -> ingest.SourceDocument:
    """Return a file as a document: its id is its name, in the characters an id may have."""
    path = PurePath(filename.replace("\\", "/"))
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in {"", "application/octet-stream"}:
        media_type = MEDIA_TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or ""
    document_id = _NOT_IN_AN_ID.sub("-", path.name).strip("-")[:128]
    if not document_id:
        raise InvalidInput("a file needs a name; its id is made of it", field="files")
    return ingest.SourceDocument(id=document_id, media_type=media_type, content=content)


def _from_body(document: DocumentBody, position: int) -> ingest.SourceDocument:
    path = f"documents[{position}]"
    if (document.text is None) == (document.content_base64 is None):
        raise InvalidInput("a document has either text or content_base64", field=f"{path}.text")
    metadata = Struct()
    metadata.update(document.metadata)
    return ingest.SourceDocument(
        id=document.id,
        title=document.title,
        media_type=document.media_type,
        content=_content(document, f"{path}.content_base64"),
        metadata=metadata,
    )


def _content(document: DocumentBody, path: str) -> bytes:
    if document.content_base64 is None:
        return (document.text or "").encode()
    try:
        return base64.b64decode(document.content_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("content_base64 is not base64", field=path) from error


def _keep(outcomes: dict[int, Json], progress: ingest.IngestProgress) -> None:
    if progress.stage in ENDS:
        outcomes[progress.index] = _progress_json(progress)


def _progress_json(progress: ingest.IngestProgress) -> Json:
    news: dict[str, Any] = {
        "index": progress.index,
        "document_id": progress.document_id,
        "status": STAGES[progress.stage],
        "chunk_count": progress.chunk_count,
    }
    if progress.stage == ingest.INGEST_STAGE_STORED:
        news |= {"changed": progress.changed, "revision": progress.revision}
    elif progress.stage == ingest.INGEST_STAGE_REJECTED:
        news |= {"reason": progress.reason, "message": progress.message, "retryable": progress.retryable}
    return news


def _summary(outcomes: dict[int, Json]) -> Json:
    results: Sequence[Json] = [outcomes[index] for index in sorted(outcomes)]
    stored = [result for result in results if result["status"] == "stored"]
    return {
        "object": "ingest",
        "stored": len(stored),
        "rejected": len(results) - len(stored),
        "revision": max((result["revision"] for result in stored), default=None),
        "results": results,
    }
