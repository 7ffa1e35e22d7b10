"""Translates the calls about replicas."""

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from penstock.inference.v1 import replicas_pb2 as pb
from penstock.inference.v1 import replicas_pb2_grpc as pb_grpc
from servicekit.rpc import Service

from inference.core.breaker import Position
from inference.core.golden import Outcome, Verdict
from inference.core.pool import Pool
from inference.core.replica import Replica
from inference.core.served_model import ServedModel

POSITIONS: Final = {
    Position.CLOSED: pb.BREAKER_POSITION_CLOSED,
    Position.OPEN: pb.BREAKER_POSITION_OPEN,
    Position.HALF_OPEN: pb.BREAKER_POSITION_HALF_OPEN,
}
OUTCOMES: Final = {
    Outcome.PASSED: pb.GOLDEN_OUTCOME_PASSED,
    Outcome.WRONG: pb.GOLDEN_OUTCOME_WRONG,
    Outcome.UNANSWERED: pb.GOLDEN_OUTCOME_UNANSWERED,
}


class ReplicaServicer(pb_grpc.ReplicaServiceServicer):
    """Serves the list of replicas."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ListReplicas(self, request: pb.ListReplicasRequest, _context: Any) -> pb.ListReplicasResponse:
        """List the replicas of one model, or of all."""
        models = [self._pool.find(request.model)] if request.model else self._pool.models()
        return pb.ListReplicasResponse(replicas=[_replica(each) for each in _replicas(models)])


def _replicas(models: Iterable[ServedModel]) -> list[Replica]:
    return [replica for served in models if served.replicas for replica in served.replicas.all()]


def _replica(replica: Replica) -> pb.Replica:
    told = replica.told()
    return pb.Replica(
        model=replica.model,
        address=replica.address,
        in_rotation=replica.in_rotation,
        reason=told.reason,
        detail=told.detail,
        version=told.version,
        digest=told.digest,
        outstanding=replica.outstanding,
        weight=replica.weight(),
        breaker=POSITIONS[replica.breaker.position],
        ejections=replica.ejections,
        golden=_probe(replica.verdict),
    )


def _probe(verdict: Verdict | None) -> pb.GoldenProbe | None:
    if verdict is None:
        return None
    checked_at = Timestamp()
    checked_at.FromNanoseconds(int(verdict.checked_at * 1e9))
    return pb.GoldenProbe(outcome=OUTCOMES[verdict.outcome], checked_at=checked_at, detail=verdict.detail)


def replica_service(pool: Pool) -> Service:
    """Return the service; addresses are for administrators."""
    return Service(
        "penstock.inference.v1.ReplicaService",
        pb_grpc.add_ReplicaServiceServicer_to_server,
        ReplicaServicer(pool),
        {"ListReplicas": "admin"},
    )
