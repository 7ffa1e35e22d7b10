"""Versions and roles of models, through the inference service; who may change them is decided there once more."""

from penstock.inference.v1 import versions_pb2 as pb
from penstock.inference.v1.versions_pb2_grpc import VersionServiceStub
from servicekit.rpc import Channel


class InferenceVersions:
    """The registry of model versions."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = VersionServiceStub(channel.grpc)

    async def list(self, request: pb.ListVersionsRequest) -> pb.ListVersionsResponse:
        """Return the versions and roles of a model."""
        return await self._channel.call(self._stub.ListVersions, request, idempotent=True)

    async def get(self, request: pb.GetVersionRequest) -> pb.GetVersionResponse:
        """Return one version."""
        return await self._channel.call(self._stub.GetVersion, request, idempotent=True)

    async def register(self, request: pb.RegisterVersionRequest) -> pb.RegisterVersionResponse:
        """Register a version."""
        return await self._channel.call(self._stub.RegisterVersion, request)

    async def import_version(self, request: pb.ImportVersionRequest) -> pb.ImportVersionResponse:
        """Register a version that MLflow knows."""
        return await self._channel.call(self._stub.ImportVersion, request)

    async def evaluate(self, request: pb.RecordEvaluationRequest) -> pb.RecordEvaluationResponse:
        """Record a verdict on a variant."""
        return await self._channel.call(self._stub.RecordEvaluation, request)

    async def roles(self, request: pb.GetRolesRequest) -> pb.GetRolesResponse:
        """Return the roles of a model."""
        return await self._channel.call(self._stub.GetRoles, request, idempotent=True)

    async def assign(self, request: pb.SetRolesRequest) -> pb.SetRolesResponse:
        """Replace the roles of a model."""
        return await self._channel.call(self._stub.SetRoles, request)

    async def changes(self, request: pb.ListVersionChangesRequest) -> pb.ListVersionChangesResponse:
        """Return the journal."""
        return await self._channel.call(self._stub.ListVersionChanges, request, idempotent=True)

    async def shadow_report(self, request: pb.GetShadowReportRequest) -> pb.GetShadowReportResponse:
        """Return how a shadow's answers differed."""
        return await self._channel.call(self._stub.GetShadowReport, request, idempotent=True)
