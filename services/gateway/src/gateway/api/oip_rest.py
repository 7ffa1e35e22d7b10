"""The OIP door over REST under /v2: JSON tensors, and the binary tensor extension that tritonclient uses."""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from servicekit.errors import InvalidInput, Unavailable
from starlette.requests import Request
from starlette.responses import Response
from tritonclient.grpc import service_pb2 as oip

from gateway.api import oip_responses as shown
from gateway.api.body import json_response, whole_body
from gateway.api.errors import UnsupportedMediaType
from gateway.api.oip_grpc import EXTENSIONS, SERVER_NAME, SERVER_VERSION
from gateway.api.oip_json import metadata_json, read_request, write_response
from gateway.api.openapi import Shape
from gateway.api.tensor_calls import TensorCalls

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
BINARY: Final = "application/octet-stream"
HEALTH: Final = "/v2/health/"
RETRY_S: Final = 1.0


class OipRoutes:
    """Translates requests; every decision is made in tensor_calls.py."""

    def __init__(self, calls: TensorCalls) -> None:
        self._calls = calls

    async def live(self, _: Request) -> Response:
        """Say that the process answers."""
        return json_response({"live": True})

    async def ready(self, _: Request) -> Response:
        """Say whether any model would serve a request."""
        if not await self._calls.ready():
            raise Unavailable("no model is ready", reason="not_ready", retry_after_s=RETRY_S)
        return json_response({"ready": True})

    async def server(self, _: Request) -> Response:
        """Name the server."""
        return json_response({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS})

    async def model_ready(self, request: Request) -> Response:
        """Say whether a model would serve the caller; 200 alone means that it would."""
        name, version = _addressed(request)
        message = oip.ModelMetadataRequest(name=name, version=version).SerializeToString()
        if not await self._calls.model_ready(name, version, message):
            raise Unavailable(f"{name[:200]} is not ready", reason="not_ready", retry_after_s=RETRY_S)
        return json_response({"name": name, "ready": True})

    async def model(self, request: Request) -> Response:
        """Return what goes into a model and what comes out."""
        name, version = _addressed(request)
        message = oip.ModelMetadataRequest(name=name, version=version)
        response = await self._calls.metadata(message.SerializeToString())
        return json_response(metadata_json(oip.ModelMetadataResponse.FromString(response)))

    async def config(self, request: Request) -> Response:
        """Return a model's configuration, as Triton writes it."""
        name, version = _addressed(request)
        message = oip.ModelConfigRequest(name=name, version=version)
        response = oip.ModelConfigResponse.FromString(await self._calls.config(message.SerializeToString()))
        return json_response(MessageToDict(response.config, preserving_proto_field_name=True))

    async def infer(self, request: Request) -> Response:
        """Run a model once."""
        name, version = _addressed(request)
        body = await whole_body(request)
        size = _header_length(request, len(body))
        asked = read_request(name, version, body[:size], memoryview(body)[size:])
        answered = write_response(await self._calls.infer(asked.message), asked)
        if not answered.binary:
            return Response(answered.header, media_type="application/json")
        headers = {HEADER_LENGTH: str(len(answered.header))}
        return Response(b"".join([answered.header, *answered.binary]), media_type=BINARY, headers=headers)


def oip_operations(routes: OipRoutes) -> list[tuple[str, str, str, Callable[[Request], Any], Shape]]:
    """Return name, method, path, endpoint and shape of every OIP call; versions first, as names may have slashes."""
    model, version = "/v2/models/{model:path}", "/v2/models/{model:path}/versions/{version}"
    infer = Shape(shown.InferResponse, shown.InferRequest, oip=True, binary=True)
    ready, described = Shape(shown.ModelState, oip=True), Shape(shown.ModelDescription, oip=True)
    state = Shape(shown.ServerState, oip=True, open=True)
    return [
        ("oip_live", "GET", f"{HEALTH}live", routes.live, state),
        ("oip_ready", "GET", f"{HEALTH}ready", routes.ready, state),
        ("oip_server", "GET", "/v2", routes.server, Shape(shown.ServerDescription, oip=True)),
        ("oip_infer_version", "POST", f"{version}/infer", routes.infer, infer),
        ("oip_infer", "POST", f"{model}/infer", routes.infer, infer),
        ("oip_version_ready", "GET", f"{version}/ready", routes.model_ready, ready),
        ("oip_model_ready", "GET", f"{model}/ready", routes.model_ready, ready),
        ("oip_version_config", "GET", f"{version}/config", routes.config, Shape(None, oip=True)),
        ("oip_model_config", "GET", f"{model}/config", routes.config, Shape(None, oip=True)),
        ("oip_version", "GET", version, routes.model, described),
        ("oip_model", "GET", model, routes.model, described),
    ]


def _addressed(request: Request) -> tuple[str, str]:
    name, version = request.path_params["model"], request.path_params.get("version", "")
    if not name:
        raise InvalidInput("the path names no model", field="model_name")
    return _encodable(name), _encodable(version)


def _encodable(text: str) -> str:
    """Return a part of a path that a message can carry; bytes that are not UTF-8 arrive as what none can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the path is not UTF-8", field="model_name") from error
    return text


def _header_length(request: Request, body_size: int) -> int:
    """Return how much of the body is JSON; raise InvalidInput, UnsupportedMediaType."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("bodies are taken as they are, not compressed", field="Content-Encoding")
    asked = request.headers.get(HEADER_LENGTH)
    if asked is None:  # whatever the content type: tritonclient has aiohttp say application/octet-stream of JSON
        return body_size
    if not (asked.isascii() and asked.isdigit() and len(asked) < 12 and int(asked) <= body_size):
        raise InvalidInput(f"{HEADER_LENGTH} has to be the size of the JSON in the body", field=HEADER_LENGTH)
    return int(asked)
