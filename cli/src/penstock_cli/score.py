"""`penstock score`: a model on every row of a file, as batch work, which goes on where it was broken off."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import typer
from penstock.inference.v1 import score_pb2 as pb
from penstock.inference.v1.score_pb2_grpc import ScoreServiceStub
from rich.console import Console

from penstock_cli import settings as cli_settings
from penstock_cli.client import CallFailed
from penstock_cli.pool import PoolClient
from penstock_cli.tensors import read_response, write_request

USUAL_WINDOW: Final = 8
LARGEST_WINDOW: Final = 64
console = Console()


@dataclass(slots=True)
class Scores:
    """How many rows were answered and failed in this run."""

    answered: int = 0
    failed: int = 0


def score(
    model: Annotated[str, typer.Argument(help="A model of the catalogue that takes tensors.")],
    rows: Annotated[Path, typer.Argument(help='JSON lines, each {"inputs": [...]} as in OIP\'s JSON.')],
    out: Annotated[Path, typer.Option(help="Where the answers go, one line for each row, with its offset.")],
    window: Annotated[int, typer.Option(min=1, max=LARGEST_WINDOW, help="Rows under way at a time.")] = USUAL_WINDOW,
) -> None:
    """Run a model on each row of a file, giving way to everybody else; the same command again goes on where it was."""
    scores = Scores()
    client = PoolClient(cli_settings.load())
    with out.open("a+b") as answers, _opened(rows) as asked:
        done = resume(answers)
        if done:
            console.print(f"{out} has the answers up to row {done - 1}; going on from there")
        start = pb.ScoreRequest(start=pb.ScoreStart(model=model, from_offset=done, window=window))
        requests = _requests(start, model, rows, asked, done)
        try:
            client.exchange(ScoreServiceStub, "Score", requests, lambda each: _keep(each, answers, scores))
        except CallFailed as error:
            raise CallFailed(
                f"{error}; {scores.answered + scores.failed} rows were done: run it again to go on"
            ) from error
    console.print(f"{scores.answered} rows answered, {scores.failed} failed")


def resume(answers: BinaryIO) -> int:
    """Return the row to go on from, having cut off a last line that was not written to its end."""
    answers.seek(0)
    following = end = 0
    for line in answers:
        if not line.endswith(b"\n"):
            break
        try:
            following = int(json.loads(line)["offset"]) + 1
        except (ValueError, KeyError, TypeError) as error:
            raise CallFailed("what is in the file for the answers are no answers: name another file") from error
        end += len(line)
    answers.truncate(end)
    return following


def _requests(start: pb.ScoreRequest, model: str, path: Path, rows: BinaryIO, done: int) -> Iterator[pb.ScoreRequest]:
    yield start
    for offset, line in enumerate(rows):
        if offset >= done and line.strip():
            try:
                request = write_request(model, json.loads(line))
            except ValueError as error:  # BadRow is one, and so is what is no JSON
                raise CallFailed(f"{path}, line {offset + 1}: {error}") from error
            yield pb.ScoreRequest(row=pb.ScoreRow(offset=offset, request=request))


def _keep(scored: pb.ScoreResponse, answers: BinaryIO, scores: Scores) -> None:
    row: dict[str, Any] = {"offset": scored.offset}
    if scored.HasField("failure"):
        scores.failed += 1
        failure = scored.failure
        row["failure"] = {"reason": failure.reason, "message": failure.message, "retryable": failure.retryable}
    else:
        scores.answered += 1
        row["outputs"] = read_response(scored.response)
    answers.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CallFailed(f"{path}: {error.strerror}") from error
