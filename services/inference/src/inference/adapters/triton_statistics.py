"""Reads what Triton has counted of a model: rows, executions, batch sizes, and hits of its response cache."""

import logging
from collections import Counter
from typing import Any

from google.protobuf.message import DecodeError
from servicekit.rpc import CallFailed
from tritonclient.grpc import service_pb2 as oip

from inference.adapters.triton import TritonServer
from inference.core.execution import Execution

log = logging.getLogger(__name__)


class TritonExecutions:
    """The counters of one model on one server, all its versions together."""

    def __init__(self, server: TritonServer, triton_name: str) -> None:
        """Take the server and the model's name there."""
        self._server = server
        self._request = oip.ModelStatisticsRequest(name=triton_name).SerializeToString()

    async def read(self, timeout_s: float) -> Execution | None:
        """Return the counters, or None where the server does not tell them: it is gone, or statistics are closed."""
        try:
            answer = await self._server.call("ModelStatistics", self._request, timeout_s)
            return Execution.sum(map(_execution, oip.ModelStatisticsResponse.FromString(answer).model_stats))
        except (CallFailed, DecodeError) as error:
            log.debug("no statistics of %s: %s", self._server.address, error)
            return None


def _execution(model: Any) -> Execution:
    batches: Counter[int] = Counter()
    for each in model.batch_stats:
        batches[each.batch_size] += each.compute_infer.count
    stats = model.inference_stats
    return Execution(
        model.inference_count, model.execution_count, batches, stats.cache_hit.count, stats.cache_miss.count
    )
