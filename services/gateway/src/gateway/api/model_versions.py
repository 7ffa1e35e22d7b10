"""/v1/admin/models: versions of models and the roles they play, for administrators of everything."""

from collections.abc import Callable
from typing import Any, Final, Protocol

from penstock.inference.v1 import versions_pb2 as pb
from servicekit.errors import InvalidInput
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import model_version_responses as shown
from gateway.api.body import json_response, read
from gateway.api.openapi import Shape
from gateway.core.accounts import current
from gateway.core.administration import require_admin

PAGING: Final = ("page_size", "page_token")
LONGEST_NUMBER: Final = 9


class ModelVersions(Protocol):
    """The registry of model versions, in the vocabulary of its proto."""

    async def list(self, request: pb.ListVersionsRequest) -> pb.ListVersionsResponse: ...
    async def get(self, request: pb.GetVersionRequest) -> pb.GetVersionResponse: ...
    async def register(self, request: pb.RegisterVersionRequest) -> pb.RegisterVersionResponse: ...
    async def import_version(self, request: pb.ImportVersionRequest) -> pb.ImportVersionResponse: ...
    async def evaluate(self, request: pb.RecordEvaluationRequest) -> pb.RecordEvaluationResponse: ...
    async def roles(self, request: pb.GetRolesRequest) -> pb.GetRolesResponse: ...
    async def assign(self, request: pb.SetRolesRequest) -> pb.SetRolesResponse: ...
    async def changes(self, request: pb.ListVersionChangesRequest) -> pb.ListVersionChangesResponse: ...
    async def shadow_report(self, request: pb.GetShadowReportRequest) -> pb.GetShadowReportResponse: ...


class ModelVersionRoutes:
    """Translates requests; every decision is the pool's."""

    def __init__(self, versions: ModelVersions) -> None:
        self._versions = versions

    async def list(self, request: Request) -> Response:
        """Return the versions of a model."""
        found = await self._versions.list(pb.ListVersionsRequest(model=_model(request)))
        return json_response({"versions": [shown.version_json(each) for each in found.versions]})

    async def get(self, request: Request) -> Response:
        """Return one version."""
        found = await self._versions.get(pb.GetVersionRequest(model=_model(request), version=_version(request)))
        return json_response(shown.version_json(found.version))

    async def register(self, request: Request) -> Response:
        """Register a version."""
        model, body = _model(request), await read(request, shown.NewVersionBody)
        variants = [shown.variant_message(each) for each in body.variants]
        sent = pb.RegisterVersionRequest(model=model, version=body.version, variants=variants, source=body.source)
        return json_response(shown.version_json((await self._versions.register(sent)).version))

    async def import_version(self, request: Request) -> Response:
        """Register a version that MLflow knows."""
        model, body = _model(request), await read(request, shown.ImportBody)
        sent = pb.ImportVersionRequest(model=model, uri=body.uri, variant=shown.variant_message(body.variant))
        return json_response(shown.version_json((await self._versions.import_version(sent)).version))

    async def evaluate(self, request: Request) -> Response:
        """Record a verdict on a variant."""
        model, body = _model(request), await read(request, shown.EvaluationBody)
        sent = pb.RecordEvaluationRequest(
            model=model,
            version=_version(request),
            variant=body.variant,
            verdict=shown.VERDICTS[body.verdict],
            report=body.report,
        )
        return json_response(shown.version_json((await self._versions.evaluate(sent)).version))

    async def roles(self, request: Request) -> Response:
        """Return the roles of a model."""
        return json_response(shown.roles_json(await self._versions.roles(pb.GetRolesRequest(model=_model(request)))))

    async def assign(self, request: Request) -> Response:
        """Replace the roles of a model, if they are those that were read."""
        model, body = _model(request), await read(request, shown.RolesBody)
        sent = pb.SetRolesRequest(model=model, revision=body.revision, roles=shown.roles_message(body))
        return json_response(shown.roles_json(await self._versions.assign(sent)))

    async def changes(self, request: Request) -> Response:
        """Return the journal of a model."""
        size = request.query_params.get("page_size", "0")
        if not (size.isascii() and size.isdigit() and len(size) <= LONGEST_NUMBER):
            raise InvalidInput("page_size has to be a whole number", field="page_size")
        token = request.query_params.get("page_token", "")
        sent = pb.ListVersionChangesRequest(model=_model(request), page_size=int(size), page_token=token)
        found = await self._versions.changes(sent)
        changes = [shown.change_json(each) for each in found.changes]
        return json_response({"changes": changes, "next_page_token": found.next_page_token or None})

    async def shadow_report(self, request: Request) -> Response:
        """Return how a shadow's answers differed."""
        sent = pb.GetShadowReportRequest(model=_model(request), version=_version(request))
        return json_response(shown.report_json(await self._versions.shadow_report(sent)))


def model_version_operations(routes: ModelVersionRoutes) -> list[tuple[str, str, str, Callable[[Request], Any], Shape]]:
    """Return name, method, path, endpoint and shape of every call about versions."""
    model = "/v1/admin/models/{model:path}"
    versions, roles, version = f"{model}/versions", f"{model}/roles", f"{model}/versions/{{version}}"
    one = shown.VersionShown
    return [
        ("list_model_versions", "GET", versions, routes.list, Shape(shown.Versions)),
        ("register_model_version", "POST", versions, routes.register, Shape(one, shown.NewVersionBody)),
        ("import_model_version", "POST", f"{versions}/import", routes.import_version, Shape(one, shown.ImportBody)),
        ("evaluate_model_version", "POST", f"{version}/evaluation", routes.evaluate, Shape(one, shown.EvaluationBody)),
        ("get_shadow_report", "GET", f"{version}/shadow-report", routes.shadow_report, Shape(shown.ShadowReportShown)),
        ("get_model_version", "GET", version, routes.get, Shape(one)),
        ("get_model_roles", "GET", roles, routes.roles, Shape(shown.RolesShown)),
        ("set_model_roles", "PUT", roles, routes.assign, Shape(shown.RolesShown, shown.RolesBody)),
        ("list_model_changes", "GET", f"{model}/changes", routes.changes, Shape(shown.VersionChanges, query=PAGING)),
    ]


def _model(request: Request) -> str:
    """Return the model a request is about; raise MissingScope for who does not administer everything."""
    require_admin(current())
    return str(request.path_params["model"])


def _version(request: Request) -> str:
    return str(request.path_params["version"])
