"""Translates the calls about capacity."""

import asyncio
from typing import Any, Final

from penstock.inference.v1 import capacity_pb2 as pb
from penstock.inference.v1 import capacity_pb2_grpc as pb_grpc
from servicekit.errors import InvalidInput
from servicekit.rpc import Service

from inference.core.advisor import Advisor, Capacity
from inference.core.capacity import Kind, Objective, Plan
from inference.core.execution import Execution
from inference.core.pool import Pool
from inference.core.residency_measures import ModelMemory
from inference.core.served_model import ServedModel
from inference.core.workload import Measured, Percentiles

KINDS: Final = {pb.OBJECTIVE_KIND_WAIT: Kind.WAIT, pb.OBJECTIVE_KIND_LATENCY: Kind.LATENCY}
WIRE_KINDS: Final = {kind: number for number, kind in KINDS.items()}


class CapacityServicer(pb_grpc.CapacityServiceServicer):
    """Serves what was measured and what is advised."""

    def __init__(self, pool: Pool, advisor: Advisor) -> None:
        """Take the pool and who advises."""
        self._pool = pool
        self._advisor = advisor

    async def GetCapacity(self, request: pb.GetCapacityRequest, _context: Any) -> pb.GetCapacityResponse:
        """Return the capacity of one model, or of all."""
        models = [self._pool.find(request.model)] if request.model else self._pool.models()
        objective = _read_objective(request.objective) if request.HasField("objective") else None
        found = [self._advisor.capacity(served, request.rate or None, objective) for served in models]
        executions = await asyncio.gather(*(_execution_of(each) for each in models))
        told = zip(found, executions, strict=True)
        return pb.GetCapacityResponse(models=[_model(each, execution) for each, execution in told])


def _read_objective(message: pb.Objective) -> Objective:
    kind = KINDS.get(message.kind)
    if kind is None:
        raise InvalidInput("an objective is for the wait or for the latency", field="objective.kind")
    objective = Objective(kind, message.quantile, message.seconds)
    objective.check()
    return objective


async def _execution_of(served: ServedModel) -> Execution | None:
    return None if served.replicas is None else await served.replicas.execution()


def _model(capacity: Capacity, execution: Execution | None) -> pb.ModelCapacity:
    replicas = capacity.served.replicas
    return pb.ModelCapacity(
        model=capacity.served.model.name,
        workload=_workload(capacity, capacity.measured) if capacity.measured else None,
        advice=_advice(capacity, capacity.plan) if capacity.plan and capacity.needed else None,
        reason=capacity.reason,
        memory=_memory(replicas.memory()) if replicas is not None and replicas.memory is not None else None,
        execution=_execution(execution) if execution is not None else None,
    )


def _memory(memory: ModelMemory) -> pb.Memory:
    tally = memory.tally
    return pb.Memory(
        footprint_bytes=memory.footprint_bytes,
        copies=memory.copies,
        loads=tally.loads,
        load_s=tally.load_s / max(1, tally.loads),
        unloads=tally.unloads,
        unload_s=tally.unload_s / max(1, tally.unloads),
        evictions=tally.evictions,
        hits=tally.hits,
        misses=tally.misses,
    )


def _execution(execution: Execution) -> pb.Execution:
    return pb.Execution(
        inferences=execution.inferences,
        executions=execution.executions,
        batches=[pb.BatchSize(size=size, executions=count) for size, count in sorted(execution.batches.items())],
        cache_hits=execution.cache_hits,
        cache_misses=execution.cache_misses,
    )


def _workload(capacity: Capacity, measured: Measured) -> pb.Workload:
    queue = capacity.served.queue
    return pb.Workload(
        rate=measured.arrivals.rate,
        arrival_scv=measured.arrivals.scv,
        service_mean_s=measured.service.mean_s,
        service_scv=measured.service.scv,
        servers=measured.servers,
        wait=_percentiles(measured.wait),
        service=_percentiles(measured.held),
        in_flight=queue.running,
        waiting=queue.waiting,
        concurrency_limit=queue.limit,
        replicas=capacity.replicas,
        first_token=_percentiles(measured.first_token),
        inter_token=_percentiles(measured.inter_token),
    )


def _advice(capacity: Capacity, plan: Plan) -> pb.Advice:
    objective = plan.objective
    return pb.Advice(
        replicas=capacity.needed,
        rate=plan.arrivals.rate,
        objective=pb.Objective(kind=WIRE_KINDS[objective.kind], quantile=objective.quantile, seconds=objective.seconds),
        expected=_expected(plan, capacity.needed),
        present=_expected(plan, capacity.replicas),
    )


def _expected(plan: Plan, replicas: int) -> pb.Expected:
    expected = plan.expected(replicas)
    if expected.utilisation >= 1:
        return pb.Expected(replicas=replicas, utilisation=expected.utilisation)
    wait = [expected.wait_s(quantile) for quantile in (0.5, 0.95, 0.99)]
    latency = [expected.latency_s(quantile, plan.service) for quantile in (0.5, 0.95, 0.99)]
    return pb.Expected(
        replicas=replicas,
        utilisation=expected.utilisation,
        wait=pb.Percentiles(p50=wait[0], p95=wait[1], p99=wait[2]),
        latency=pb.Percentiles(p50=latency[0], p95=latency[1], p99=latency[2]),
    )


def _percentiles(values: Percentiles | None) -> pb.Percentiles | None:
    return None if values is None else pb.Percentiles(p50=values.p50, p95=values.p95, p99=values.p99)


def capacity_service(pool: Pool, advisor: Advisor) -> Service:
    """Return the service; what all tenants together ask is for administrators."""
    return Service(
        "penstock.inference.v1.CapacityService",
        pb_grpc.add_CapacityServiceServicer_to_server,
        CapacityServicer(pool, advisor),
        {"GetCapacity": "admin"},
    )
