"""Translates the scoring of rows."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from penstock.inference.v1 import score_pb2 as pb
from penstock.inference.v1 import score_pb2_grpc as pb_grpc
from servicekit import identity
from servicekit.errors import Forbidden, InvalidInput, TimedOut, Unavailable
from servicekit.load.priority import Priority
from servicekit.oip import read_model_name
from servicekit.rpc import Service

from inference.core.pool import Pool
from inference.core.scoring import LARGEST_WINDOW, USUAL_WINDOW, Row, Scored, Scorer

MOST_CHARACTERS: Final = 2_000
"""Of a failure's message."""


class ScoreServicer(pb_grpc.ScoreServiceServicer):
    """Serves scoring."""

    def __init__(self, pool: Pool, scorer: Scorer) -> None:
        """Take where models are found, and what scores."""
        self._pool = pool
        self._scorer = scorer

    async def Score(
        self, requests: AsyncIterator[pb.ScoreRequest], _context: Any
    ) -> AsyncGenerator[pb.ScoreResponse, None]:
        """Score the rows of a stream as batch work."""
        caller = identity.current()
        identity.enter(replace(caller, priority=Priority.BATCH.label))
        start = await _read_start(requests)
        model = self._pool.find(start.model).model
        if caller.region and model.region != caller.region:
            raise Forbidden(f"{model.name} does not run in {caller.region}", reason="region_not_allowed", field="model")
        rows, window = _read_rows(requests, model.name), start.window or USUAL_WINDOW
        async with aclosing(self._scorer.score(model.name, rows, start.from_offset, window)) as scored:
            async for each in scored:
                yield _write(each)


async def _read_start(requests: AsyncIterator[pb.ScoreRequest]) -> pb.ScoreStart:
    async for request in requests:
        if not request.HasField("start"):
            break
        if request.start.window > LARGEST_WINDOW:
            raise InvalidInput(f"a window is at most {LARGEST_WINDOW}", field="start.window")
        return request.start
    raise InvalidInput("the first message has to be the start", field="start")


async def _read_rows(requests: AsyncIterator[pb.ScoreRequest], model: str) -> AsyncGenerator[Row, None]:
    async for request in requests:
        if not request.HasField("row"):
            raise InvalidInput("after the start every message is a row", field="row")
        row = request.row
        if read_model_name(row.request) != model:
            raise InvalidInput(f"the row at {row.offset} is not for {model}", field="row.request.model_name")
        yield Row(row.offset, row.request)


def _write(scored: Scored) -> pb.ScoreResponse:
    if scored.failure is None:
        return pb.ScoreResponse(offset=scored.offset, response=scored.response)
    error = scored.failure
    retryable = isinstance(error, (Unavailable, TimedOut))
    failure = pb.RowFailure(
        reason=error.reason,
        message=error.message[:MOST_CHARACTERS],
        retryable=retryable,
    )
    return pb.ScoreResponse(offset=scored.offset, failure=failure)


def score_service(pool: Pool, scorer: Scorer) -> Service:
    """Return the service as servicekit serves it."""
    return Service(
        "penstock.inference.v1.ScoreService",
        pb_grpc.add_ScoreServiceServicer_to_server,
        ScoreServicer(pool, scorer),
        {"Score": "models"},
    )
