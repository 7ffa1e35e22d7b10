"""Spans in the file, parents across processes, logs with their trace."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from hpack import Decoder, Encoder
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from servicekit.errors import NotFound
from servicekit.telemetry import Kind, propagated, span, trace_id, traceparent, tracing
from servicekit.telemetry.logs import JsonFormatter, configure
from servicekit.telemetry.span_file import FileSpanExporter


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the spans of the test go."""
    path = tmp_path / "spans.jsonl"
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(FileSpanExporter(path)))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield path
    provider.shutdown()


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_children_name_their_parents_and_the_trace_id_leads_the_line(file: Path) -> None:
    with span("outer", Kind.SERVER, {"a": 1}), span("inner") as inner:
        inner.set("b", "two")
        inner.set("c", None)
    inner_row, outer_row = rows(file)
    assert inner_row["parent_id"] == outer_row["span_id"]
    assert inner_row["attributes"] == {"b": "two"}
    assert file.read_text().startswith('{"trace_id":"' + str(outer_row["trace_id"]))


def test_a_parent_from_another_process_is_taken_up(file: Path) -> None:
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with span("served", parent=header):
        assert trace_id() == "0af7651916cd43dd8448eb211c80319c"
        assert traceparent() is not None
    assert rows(file)[0]["parent_id"] == "b7ad6b7169203331"


def test_an_unsampled_trace_goes_on_inside_but_not_outside(file: Path) -> None:
    with span("served", parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"):
        assert traceparent() is None
        assert str(propagated()).endswith("-00")
        with span("inner") as inner:
            inner.set("a", 1)
            assert trace_id() == "0af7651916cd43dd8448eb211c80319c"
        with pytest.raises(NotFound), span("failing"):
            raise NotFound("it is not there")
    assert trace_id() == ""
    assert not file.exists()


@pytest.fixture
def none_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces that begin here are not recorded."""
    monkeypatch.setattr(tracing.ROOTS, "ratio", 0.0)


@pytest.mark.usefixtures("none_recorded")
@pytest.mark.parametrize("parent", [None, "", "junk", f"00-{'0' * 32}-b7ad6b7169203331-00"])
def test_a_trace_that_is_left_out_has_an_id_that_goes_on(file: Path, parent: str | None) -> None:
    with span("served", Kind.SERVER, parent=parent) as opened:
        opened.set("a", 1)
        known = trace_id()
        assert len(known) == 32
        assert int(known, 16) > 0
        assert traceparent() is None
        assert str(propagated()).startswith(f"00-{known}-")
        assert str(propagated()).endswith("-00")
        with span("inner"):
            assert trace_id() == known
    assert trace_id() == ""
    assert not file.exists()


@pytest.mark.usefixtures("none_recorded")
def test_whoever_began_a_trace_decided_for_all(file: Path) -> None:
    with span("served", parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), span("inner"):
        pass
    assert [row["name"] for row in rows(file)] == ["inner", "served"]


def test_as_many_traces_are_recorded_as_the_ratio_says(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing.ROOTS, "ratio", 0.1)
    for _ in range(2_000):
        with span("served"):
            pass
    assert 130 <= len(rows(file)) <= 275  # 200 expected, 5.6 standard deviations


def test_failures_are_marked_and_bugs_keep_their_text_to_themselves(file: Path) -> None:
    with pytest.raises(NotFound), span("known"):
        raise NotFound("no model m", reason="model_not_found")
    with pytest.raises(KeyError), span("bug"):
        raise KeyError("secret")
    known, bug = rows(file)
    assert (known["status"], known["message"]) == ("ERROR", "no model m")
    assert known["attributes"] == {"error.type": "model_not_found"}
    assert bug["message"] is None
    assert "secret" not in file.read_text()


def test_a_log_line_is_one_json_object_with_its_trace(file: Path) -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "two\nlines %s", ("here",), None)
    with span("s"):
        line = JsonFormatter("gateway").format(record)
        expected = format(trace.get_current_span().get_span_context().trace_id, "032x")
    parsed = json.loads(line)
    assert "\n" not in line
    assert (parsed["message"], parsed["trace_id"], parsed["service"]) == ("two\nlines here", expected, "gateway")


async def test_a_stream_closed_by_another_task_ends_its_span_quietly(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def stream() -> AsyncGenerator[int, None]:
        with span("streamed"):
            yield 1
            yield 2

    numbers = stream()
    assert await asyncio.create_task(anext(numbers)) == 1
    await asyncio.create_task(numbers.aclose())
    assert [row["status"] for row in rows(file)] == ["UNSET"]
    assert caplog.records == []


def test_a_library_that_would_log_every_header_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, handlers = root.level, root.handlers[:]
    try:
        configure("gateway", "DEBUG")
        Decoder().decode(Encoder().encode([("authorization", "Bearer opensesame")]))
        logging.getLogger("servicekit").debug("this is told")
    finally:
        root.setLevel(before)
        root.handlers[:] = handlers
    told = capsys.readouterr().err
    assert "this is told" in told
    assert "opensesame" not in told
