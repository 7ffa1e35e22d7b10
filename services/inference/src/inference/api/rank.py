"""Translates the ranking of passages."""

from typing import Any

from penstock.inference.v1 import inference_pb2
from penstock.inference.v1 import rank_pb2 as pb
from penstock.inference.v1 import rank_pb2_grpc as pb_grpc
from servicekit import identity
from servicekit.errors import Forbidden
from servicekit.rpc import Service

from inference.core.pool import Pool
from inference.core.ranking import Ranker
from inference.core.versioned_pool import VersionedPool


class RankServicer(pb_grpc.RankServiceServicer):
    """Serves ranking."""

    def __init__(self, pool: Pool | VersionedPool, ranker: Ranker) -> None:
        """Take where models are found, and what ranks with them."""
        self._pool = pool
        self._ranker = ranker

    async def Rank(self, request: pb.RankRequest, _context: Any) -> pb.RankResponse:
        """Score passages for a query."""
        served, region = self._pool.find(request.model), identity.current().region
        model = served.model
        if region and model.region != region:
            raise Forbidden(f"{model.name} does not run in {region}", reason="region_not_allowed", field="model")
        ranked = await self._ranker.rank(model.name, request.query, request.passages)
        told = inference_pb2.ServedModel(
            model=model.name,
            version=ranked.version,
            digest=self._pool.state(model.name).digest,
            provider=model.provider.value,
            region=model.region,
        )
        return pb.RankResponse(scores=ranked.scores, served=told)


def rank_service(pool: Pool | VersionedPool, ranker: Ranker) -> Service:
    """Return the service as servicekit serves it."""
    return Service(
        "penstock.inference.v1.RankService",
        pb_grpc.add_RankServiceServicer_to_server,
        RankServicer(pool, ranker),
        {"Rank": "models"},
    )
