"""Serves VersionService; every decision is the registry's."""

from dataclasses import replace
from typing import Any, Final, Protocol

from penstock.inference.v1 import versions_pb2 as pb
from penstock.inference.v1 import versions_pb2_grpc as pb_grpc
from servicekit.errors import InvalidInput, Unavailable
from servicekit.rpc import Service

from inference.api.caller import current_author
from inference.api.version_messages import (
    DEFAULT_VARIANT,
    read_variant,
    read_verdict,
    read_wish,
    write_change,
    write_roles,
    write_version,
)
from inference.core.registry import Judged, NewVersion, Registry
from inference.core.version_ports import ModelRegistry, ShadowReport
from inference.core.versions import Version

USUAL_PAGE: Final = 100
LARGEST_PAGE: Final = 1_000
LONGEST_SOURCE: Final = 512
LONGEST_ID: Final = 18


class ShadowReports(Protocol):
    """Tells what comparisons with shadows have shown."""

    async def report(self, model: str, shadow: str) -> ShadowReport:
        """Return what the kept comparisons of a model with one of its versions say."""
        ...


class VersionServicer(pb_grpc.VersionServiceServicer):
    """Translates messages."""

    def __init__(self, registry: Registry, reports: ShadowReports, elsewhere: ModelRegistry | None) -> None:
        """Take the registry, what shadows showed, and the registry that versions are imported from, if there is one."""
        self._registry = registry
        self._reports = reports
        self._elsewhere = elsewhere

    async def ListVersions(self, request: pb.ListVersionsRequest, _context: Any) -> pb.ListVersionsResponse:
        """List the versions of a model with its roles."""
        known = self._registry.known(request.model)
        return pb.ListVersionsResponse(
            versions=[self._shown(known.versions[name]) for name in sorted(known.versions)],
            roles=write_roles(known.roles),
            revision=known.roles.revision,
        )

    async def GetVersion(self, request: pb.GetVersionRequest, _context: Any) -> pb.GetVersionResponse:
        """Return one version."""
        return pb.GetVersionResponse(version=self._shown(self._registry.version(request.model, request.version)))

    async def RegisterVersion(self, request: pb.RegisterVersionRequest, _context: Any) -> pb.RegisterVersionResponse:
        """Register a version."""
        if len(request.source) > LONGEST_SOURCE:
            raise InvalidInput(f"a source has at most {LONGEST_SOURCE} characters", field="source")
        wanted = NewVersion(
            request.model, request.version, [read_variant(each) for each in request.variants], request.source
        )
        return pb.RegisterVersionResponse(version=self._shown(await self._registry.register(wanted, current_author())))

    async def ImportVersion(self, request: pb.ImportVersionRequest, _context: Any) -> pb.ImportVersionResponse:
        """Register a version that another registry knows."""
        if self._elsewhere is None:
            raise Unavailable("no MLflow registry is configured (INFERENCE_MLFLOW_URL)", reason="mlflow_failed")
        self._registry.known(request.model)
        found = await self._elsewhere.resolve(request.uri)
        variant = read_variant(request.variant)
        if found.digest and variant.digest and found.digest != variant.digest:
            raise InvalidInput("MLflow tells another digest", reason="digest_mismatch", field="variant.digest")
        variant = replace(variant, digest=variant.digest or found.digest)
        wanted = NewVersion(request.model, found.name, [variant], found.source)
        return pb.ImportVersionResponse(version=self._shown(await self._registry.register(wanted, current_author())))

    async def RecordEvaluation(self, request: pb.RecordEvaluationRequest, _context: Any) -> pb.RecordEvaluationResponse:
        """Record a verdict on a variant."""
        judged = Judged(request.variant or DEFAULT_VARIANT, read_verdict(request.verdict), request.report)
        await self._registry.judge(request.model, request.version, judged, current_author())
        return pb.RecordEvaluationResponse(version=self._shown(self._registry.version(request.model, request.version)))

    async def GetRoles(self, request: pb.GetRolesRequest, _context: Any) -> pb.GetRolesResponse:
        """Return the roles of a model."""
        roles = self._registry.known(request.model).roles
        return pb.GetRolesResponse(roles=write_roles(roles), revision=roles.revision, former_champion=roles.former)

    async def SetRoles(self, request: pb.SetRolesRequest, _context: Any) -> pb.SetRolesResponse:
        """Replace the roles of a model, if they are those that were read."""
        wish = read_wish(request.roles)
        roles = await self._registry.assign(request.model, request.revision, wish, current_author())
        return pb.SetRolesResponse(roles=write_roles(roles), revision=roles.revision, former_champion=roles.former)

    async def ListVersionChanges(
        self, request: pb.ListVersionChangesRequest, _context: Any
    ) -> pb.ListVersionChangesResponse:
        """List the journal."""
        size = request.page_size or USUAL_PAGE
        if not 1 <= size <= LARGEST_PAGE:
            raise InvalidInput(f"page_size is from 1 to {LARGEST_PAGE}", field="page_size")
        found = await self._registry.changes(request.model, _page(request.page_token), size + 1)
        more = len(found) > size
        return pb.ListVersionChangesResponse(
            changes=[write_change(each) for each in found[:size]],
            next_page_token=str(found[size - 1].id) if more else "",
        )

    async def GetShadowReport(self, request: pb.GetShadowReportRequest, _context: Any) -> pb.GetShadowReportResponse:
        """Return what a shadow has shown."""
        self._registry.version(request.model, request.version)
        told = await self._reports.report(request.model, request.version)
        return pb.GetShadowReportResponse(
            requests=told.requests,
            same=told.same,
            failed=told.failed,
            max_abs_diff=told.max_abs_diff,
            champion_mean_ms=told.champion_ms,
            shadow_mean_ms=told.shadow_ms,
            details=told.details,
        )

    def _shown(self, version: Version) -> pb.Version:
        servable = {each.name: self._registry.servable(version.name, each) for each in version.variants}
        return write_version(version, self._registry.known(version.model), servable)


def _page(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) <= LONGEST_ID):
        raise InvalidInput("page_token is not one of ours", field="page_token")
    return int(token) if token else 0


def version_service(registry: Registry, reports: ShadowReports, elsewhere: ModelRegistry | None) -> Service:
    """Return the service as servicekit serves it: reading is for every caller, changing for administrators."""
    scopes: dict[str, str | None] = dict.fromkeys(("ListVersions", "GetVersion", "GetRoles"), "")
    changing = ("RegisterVersion", "ImportVersion", "RecordEvaluation", "SetRoles")
    scopes |= dict.fromkeys((*changing, "ListVersionChanges", "GetShadowReport"), "admin")
    servicer = VersionServicer(registry, reports, elsewhere)
    return Service(
        "penstock.inference.v1.VersionService", pb_grpc.add_VersionServiceServicer_to_server, servicer, scopes
    )
