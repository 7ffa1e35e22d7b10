"""The OpenAPI page: routes read their bodies themselves, so what they read is declared here."""

import re
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.api.body import Body
from gateway.api.middleware import LONGEST_TIMEOUT_MS, TIMEOUT_HEADER
from gateway.api.oip_responses import OipError
from gateway.api.responses import ErrorEnvelope

REF: Final = "#/components/schemas/"
SECURITY: Final = {"api_key": {"type": "http", "scheme": "bearer", "bearerFormat": "pst_<public id>_<secret>"}}
TIMEOUT_PARAMETER: Final = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "description": "how long the caller waits, in milliseconds; what is not done by then is given up everywhere",
    "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_TIMEOUT_MS},
}
HEADER_LENGTH_PARAMETER: Final = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "with binary tensors, the size of the JSON before them, in bytes",
    "schema": {"type": "integer", "minimum": 0},
}
EVENT: Final = {
    "type": "object",
    "description": "one event of the stream, with `stream`",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
BINARY_TENSORS: Final = {
    "schema": {"type": "string", "format": "binary", "description": "JSON, and the bytes of tensors behind it"}
}
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": ErrorEnvelope, "description": "the request is wrong in itself; `param` names the field"},
    401: {"model": ErrorEnvelope, "description": "no API key, or not a valid one"},
    403: {"model": ErrorEnvelope, "description": "the API key lacks the scope"},
    404: {"model": ErrorEnvelope, "description": "what is named does not exist, or not for this key"},
    409: {"model": ErrorEnvelope, "description": "the request does not fit what is there"},
    405: {"model": ErrorEnvelope, "description": "the path is there, but not for this method"},
    413: {"model": ErrorEnvelope, "description": "the body is too large"},
    415: {"model": ErrorEnvelope, "description": "the body is not of a kind that is taken"},
    429: {"model": ErrorEnvelope, "description": "a quota is used up; Retry-After says when to try again"},
    500: {"model": ErrorEnvelope, "description": "a bug; the message has the id it is logged under"},
    503: {"model": ErrorEnvelope, "description": "not now; Retry-After says when to try again"},
    504: {"model": ErrorEnvelope, "description": "the deadline passed"},
}
OIP_ERRORS: Final = {code: said | {"model": OipError} for code, said in ERRORS.items()}
_PATH_PARAMETER: Final = re.compile(r"\{(\w+)(?::path)?\}")


@dataclass(frozen=True, slots=True)
class Shape:
    """What an operation reads and answers with, for the page."""

    answer: type[BaseModel] | None
    body: type[Body] | None = None
    streams: bool = False
    files: bool = False
    query: tuple[str, ...] = ()
    oip: bool = False
    binary: bool = False
    open: bool = False


def extra_of(path: str, shape: Shape) -> dict[str, Any]:
    """Return what FastAPI cannot see of an operation: its parameters, its body, and who may call it."""
    parameters: list[Any] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PATH_PARAMETER.findall(path)
    ]
    parameters += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in shape.query]
    if shape.binary:
        parameters.append(HEADER_LENGTH_PARAMETER)
    security: list[Any] = [] if shape.open else [{"api_key": []}]
    extra: dict[str, Any] = {"parameters": [*parameters, TIMEOUT_PARAMETER], "security": security}
    if shape.body is not None:
        content: dict[str, Any] = {"application/json": {"schema": {"$ref": REF + shape.body.__name__}}}
        if shape.files:
            files = {"type": "array", "items": {"type": "string", "format": "binary"}}
            content["multipart/form-data"] = {"schema": {"type": "object", "properties": {"files": files}}}
        if shape.binary:
            content["application/octet-stream"] = BINARY_TENSORS
        extra["requestBody"] = {"required": True, "content": content}
    return extra


def responses_of(shape: Shape) -> dict[int | str, dict[str, Any]]:
    """Return the answers of an operation."""
    good: dict[str, Any] = {"description": "done"}
    if shape.answer is None:
        good["content"] = {"application/json": {"schema": {"type": "object"}}}
    else:
        good["model"] = shape.answer
    if shape.streams:
        good["content"] = {"text/event-stream": {"schema": EVENT}}
    if shape.binary:
        good["content"] = {"application/octet-stream": BINARY_TENSORS}
    return {200: good, **(OIP_ERRORS if shape.oip else ERRORS)}


def page(app: FastAPI, bodies: list[type[Body]]) -> dict[str, Any]:
    """Return the OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        _, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=REF + "{model}")
        document["components"].setdefault("schemas", {}).update(definitions["$defs"])
        document["components"]["securitySchemes"] = SECURITY
        app.openapi_schema = document
    return app.openapi_schema
