"""A trace is read from the span file and drawn as a tree."""

import json
from io import StringIO
from pathlib import Path

from penstock_cli.traces import draw, read_trace
from rich.console import Console


def line(trace: str, span: str, parent: str | None, name: str, service: str, times: tuple[int, int]) -> str:
    fields = {
        "trace_id": trace,
        "span_id": span,
        "parent_id": parent,
        "name": name,
        "kind": "SERVER",
        "service": service,
    }
    rest = {
        "kind": "SERVER",
        "start_ns": times[0],
        "end_ns": times[1],
        "status": "OK",
        "message": None,
        "attributes": {},
        "links": [],
    }
    return json.dumps(fields | rest, separators=(",", ":")) + "\n"


def test_spans_of_both_files_make_one_tree(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    Path(f"{file}.1").write_text(line("ab12", "1", None, "POST /v1/ask", "gateway", (0, 10_000_000)))
    other = line("ffff", "9", None, "other", "gateway", (0, 1))
    file.write_text(other + line("ab12", "2", "1", "Ask", "orchestrator", (1_000_000, 9_000_000)))
    rows = read_trace(file, "ab")
    assert [row.name for row in rows] == ["POST /v1/ask", "Ask"]
    drawn = StringIO()
    Console(file=drawn, width=140).print(draw(rows))
    lines = drawn.getvalue().splitlines()
    assert "10.0 ms, 2 spans" in lines[0]
    assert "POST /v1/ask" in lines[1]
    assert "8.0 ms  orchestrator  Ask" in lines[2]


def test_an_unknown_trace_has_no_rows(tmp_path: Path) -> None:
    assert read_trace(tmp_path / "none.jsonl", "ab") == []
