"""`penstock score` against a real server: rows go in, answers come out, and a second run goes on where it was."""

import asyncio
import json
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from penstock.inference.v1 import score_pb2 as pb
from penstock.inference.v1 import score_pb2_grpc
from penstock_cli.client import CallFailed
from penstock_cli.main import app
from servicekit.errors import NotFound, Unavailable
from servicekit.rpc import Service
from servicekit.testing import PRIVATE_KEY_PEM, serving
from tritonclient.grpc import service_pb2 as oip
from typer.testing import CliRunner


class Scorer(score_pb2_grpc.ScoreServiceServicer):
    """Doubles x; row 1 fails; goes away after `lasts` answers."""

    def __init__(self) -> None:
        self.started: list[pb.ScoreStart] = []
        self.rows: list[int] = []
        self.lasts = 1_000

    async def Score(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[pb.ScoreResponse]:
        answered = 0
        async for request in requests:
            if request.HasField("start"):
                self.started.append(request.start)
                if request.start.model == "nope":
                    raise NotFound("there is no model 'nope'", field="model")
                continue
            if answered == self.lasts:
                raise Unavailable("the pool is shutting down", reason="draining")
            answered += 1
            self.rows.append(request.row.offset)
            yield answer_to(request.row)


def answer_to(row: pb.ScoreRow) -> pb.ScoreResponse:
    if row.offset == 1:
        failure = pb.RowFailure(reason="invalid_input", message="a wrong shape")
        return pb.ScoreResponse(offset=row.offset, failure=failure)
    asked = oip.ModelInferRequest.FromString(row.request)
    (x,) = asked.inputs
    assert (asked.model_name, x.name, x.datatype, list(x.shape)) == ("double", "x", "FP32", [1, 2])
    answer = oip.ModelInferResponse(model_name="double")
    answer.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    answer.outputs.add(name="said", datatype="BYTES", shape=[1])
    answer.raw_output_contents.append(struct.pack("<2f", *(2 * value for value in x.contents.fp32_contents)))
    answer.raw_output_contents.append(struct.pack("<I", 3) + "ä!".encode())
    return pb.ScoreResponse(offset=row.offset, response=answer.SerializeToString())


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scorer]:
    answering, address, ready = Scorer(), [""], threading.Event()
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        add = score_pb2_grpc.add_ScoreServiceServicer_to_server
        async with serving(Service("penstock.inference.v1.ScoreService", add, answering, {"Score": "models"})) as where:
            address[0] = where
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    (tmp_path / "identity.pem").write_bytes(PRIVATE_KEY_PEM)
    monkeypatch.setenv("PENSTOCK_POOL", address[0])
    monkeypatch.setenv("PENSTOCK_IDENTITY_KEY", str(tmp_path / "identity.pem"))
    yield answering
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [
        json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[number, 0.5]]}]})
        for number in range(6)
    ]
    path.write_text("\n".join([*lines[:3], "", *lines[3:]]), "utf-8")
    return path


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["score", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_every_row_is_answered_or_told_why_not(scorer: Scorer, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert "5 rows answered, 1 failed" in run("double", str(rows), "--out", str(out), "--window", "4")
    answers = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [each["offset"] for each in answers] == [0, 1, 2, 4, 5, 6]  # line 3 is empty
    assert answers[1]["failure"] == {"reason": "invalid_input", "message": "a wrong shape", "retryable": False}
    assert answers[2]["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [4.0, 1.0]},
        {"name": "said", "datatype": "BYTES", "shape": [1], "data": ["ä!"]},
    ]
    assert (scorer.started[0].window, scorer.started[0].from_offset) == (4, 0)


def test_what_was_broken_off_goes_on_where_it_was(scorer: Scorer, rows: Path, tmp_path: Path) -> None:
    out, scorer.lasts = tmp_path / "out.jsonl", 3
    with pytest.raises(CallFailed, match="shutting down; 3 rows were done"):
        run("double", str(rows), "--out", str(out))
    with out.open("ab") as answers:
        answers.write(b'{"offset":4,"outp')  # as a crash leaves it
    scorer.lasts = 1_000
    assert "up to row 2" in run("double", str(rows), "--out", str(out))
    assert scorer.started[1].from_offset == 3
    assert scorer.rows == [0, 1, 2, 4, 5, 6]
    assert [json.loads(line)["offset"] for line in out.read_text("utf-8").splitlines()] == [0, 1, 2, 4, 5, 6]
    assert "0 rows answered, 0 failed" in run("double", str(rows), "--out", str(out))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2"),
        ("[]", "a row is"),
        ('{"inputs": []}', "a row is"),
        ('{"inputs": [{"name": "x"}]}', "cannot be read"),
        ('{"inputs": [{"name": "x", "datatype": "FP16", "shape": [1], "data": [1]}]}', "FP16"),
        ('{"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": ["one"]}]}', "cannot be read"),
    ],
)
def test_a_row_that_is_none_is_named_and_what_came_before_is_kept(
    scorer: Scorer, rows: Path, tmp_path: Path, line: str, why: str
) -> None:
    lines = rows.read_text("utf-8").splitlines()
    rows.write_text("\n".join([lines[0], line]), "utf-8")
    with pytest.raises(CallFailed, match="line 2") as caught:
        run("double", str(rows), "--out", str(tmp_path / "out.jsonl"))
    assert why in str(caught.value)
    assert scorer.rows == [0]
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8"))["offset"] == 0


def test_a_file_that_holds_something_else_is_left_alone(scorer: Scorer, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("dear diary\n", "utf-8")
    with pytest.raises(CallFailed, match="are no answers"):
        run("double", str(rows), "--out", str(out))
    assert out.read_text("utf-8") == "dear diary\n"
    assert scorer.started == []


def test_an_unknown_model_and_a_missing_file_are_said(scorer: Scorer, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(CallFailed, match="there is no model 'nope'"):
        run("nope", str(rows), "--out", str(tmp_path / "out.jsonl"))
    with pytest.raises(CallFailed, match="No such file"):
        run("double", str(tmp_path / "missing"), "--out", str(tmp_path / "out.jsonl"))
