"""The numbers of residency: loads, evictions, hits and bytes, per model and per server."""

from collections import defaultdict
from dataclasses import dataclass

from servicekit.telemetry.metrics import counter, gauge, histogram

LOADS = histogram("penstock_inference_load_seconds", "Loads of models into servers' memory", ("model",))
UNLOADS = histogram("penstock_inference_unload_seconds", "Unloads, until the memory was measured free", ("model",))
LOAD_FAILURES = counter("penstock_inference_load_failures", "Loads that failed", ("model",))
EVICTIONS = counter("penstock_inference_evictions", "Models that made room for others", ("model",))
LEASES = counter("penstock_inference_leases", "Requests, by whether their model was resident", ("result",))
RESIDENT = gauge("penstock_inference_resident_bytes", "What the models of a server are charged", ("address",))
UNEXPLAINED = gauge("penstock_inference_unexplained_bytes", "Held beyond the models and the baseline", ("address",))
BUDGET = gauge("penstock_inference_budget_bytes", "What the models of a server may take", ("address",))
AILING = gauge("penstock_inference_server_ailing", "1 when a server should be restarted", ("address", "ailment"))
AILMENTS = ("leaking", "stuck_loading", "stuck_unloading")


@dataclass(slots=True)
class Tally:
    """How often one model was loaded, unloaded, put out, found and missed; seconds are those of all times together."""

    loads: int = 0
    load_s: float = 0.0
    unloads: int = 0
    unload_s: float = 0.0
    evictions: int = 0
    hits: int = 0
    misses: int = 0


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What a copy of a model takes (bytes), how many copies take requests, and what became of it so far."""

    footprint_bytes: int
    copies: int
    tally: Tally


class ResidencyMeasures:
    """The metrics of the servers of one group, and a tally of each of their models."""

    def __init__(self) -> None:
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)

    def loaded(self, model: str, took_s: float) -> None:
        """Count a load."""
        tally = self.tallies[model]
        tally.loads += 1
        tally.load_s += took_s
        LOADS.labels(model).observe(took_s)

    def unloaded(self, model: str, took_s: float) -> None:
        """Count an unload."""
        tally = self.tallies[model]
        tally.unloads += 1
        tally.unload_s += took_s
        UNLOADS.labels(model).observe(took_s)

    def load_failed(self, model: str) -> None:
        """Count a load that failed."""
        LOAD_FAILURES.labels(model).inc()

    def evicted(self, model: str) -> None:
        """Count a model that had to go for another."""
        self.tallies[model].evictions += 1
        EVICTIONS.labels(model).inc()

    def leased(self, hits: int, misses: int) -> None:
        """Count requests since the last time."""
        LEASES.labels("hit").inc(hits)
        LEASES.labels("miss").inc(misses)

    def holds(self, address: str, charged: int, unexplained: int, budget: int) -> None:
        """Tell what a server holds, in bytes."""
        RESIDENT.labels(address).set(charged)
        UNEXPLAINED.labels(address).set(unexplained)
        BUDGET.labels(address).set(budget)

    def ails(self, address: str, ailment: str) -> None:
        """Tell what is wrong with a server, if anything."""
        for each in AILMENTS:
            AILING.labels(address, each).set(each == ailment)

    def forget(self, address: str) -> None:
        """Drop what is told of a server that is gone."""
        for metric in (RESIDENT, UNEXPLAINED, BUDGET):
            metric.remove_by_labels({"address": address})
        AILING.remove_by_labels({"address": address})
