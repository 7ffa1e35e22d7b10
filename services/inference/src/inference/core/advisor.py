"""Says of every model what is asked of it and how many replicas that needs, and keeps that in the metrics."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from inference.core.capacity import Objective, ObjectiveUnreachable, Plan
from inference.core.served_model import ServedModel
from inference.core.workload import Measured

PERIOD_S: Final = 5.0
NOT_MEASURED: Final = "not_measured"


@dataclass(frozen=True, slots=True)
class Capacity:
    """One model: how many replicas it has, what was measured of it, what is planned for, and how many that needs.

    Without a measurement there is no plan; `reason` says why it is not known how many are needed (0).
    """

    served: ServedModel
    replicas: int
    measured: Measured | None = None
    plan: Plan | None = None
    needed: int = 0
    reason: str = ""


class Advisor:
    """Advises on the models of a pool."""

    def __init__(self, models: Callable[[], list[ServedModel]]) -> None:
        """Take what returns the models."""
        self._models = models

    def capacity(self, served: ServedModel, rate: float | None = None, objective: Objective | None = None) -> Capacity:
        """Return the capacity of a model for a rate (per second; None: as measured) and an objective (None: its own).

        Raises InvalidInput for a bad rate or objective, ObjectiveUnreachable for one that is given and cannot be met.
        """
        replicas = _in_rotation(served)
        measured = served.measures.workload.measured(served.queue.limit)
        if measured is None:
            return Capacity(served, replicas, reason=NOT_MEASURED)
        plan = Plan.of(measured, replicas, objective or served.model.objective, rate)
        try:
            return Capacity(served, replicas, measured, plan, plan.least_replicas())
        except ObjectiveUnreachable as error:
            if objective is not None:
                raise
            return Capacity(served, replicas, measured, plan, reason=error.reason)

    async def watch(self) -> None:
        """Keep the metrics that others scale by up to date, until cancelled."""
        while True:
            for served in self._models():
                self.publish(served)
                await asyncio.sleep(0)
            await asyncio.sleep(PERIOD_S)

    def publish(self, served: ServedModel) -> None:
        """Renew the metrics of one model; where the number is not known, it is to keep those it has."""
        wait = served.measures.workload.wait()
        served.measures.wait_p95_s.set(wait.p95 if wait else 0.0)
        capacity = self.capacity(served)
        if capacity.plan is not None:
            served.measures.utilisation.set(capacity.plan.expected(capacity.replicas).utilisation)
        served.measures.desired_replicas.set(capacity.needed or capacity.replicas)


def _in_rotation(served: ServedModel) -> int:
    """Return how many replicas get requests; a model of an upstream counts as one."""
    if served.replicas is None:
        return 1
    return sum(replica.in_rotation for replica in served.replicas.all())
