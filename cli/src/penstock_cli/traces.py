"""Reads the span file of the local stack and draws one trace as a tree."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text
from rich.tree import Tree

BAR_WIDTH = 24
SHOWN_ATTRIBUTES = {
    "gen_ai.request.model": "model",
    "gen_ai.provider.name": "provider",
    "gen_ai.usage.input_tokens": "input",
    "gen_ai.usage.output_tokens": "output",
    "gen_ai.data_source.id": "source",
    "gen_ai.request.top_k": "top_k",
    "http.response.status_code": "status",
    "error.type": "error",
}


@dataclass(frozen=True, slots=True)
class SpanRow:
    """A finished span; times in nanoseconds since 1970."""

    span_id: str
    parent_id: str | None
    name: str
    service: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]


def read_trace(file: Path, trace_id: str) -> list[SpanRow]:
    """Return the spans of one trace, by start; the trace may be named by the first digits of its id."""
    rows = []
    for path in (file.with_name(file.name + ".1"), file):
        if path.exists():
            with path.open(encoding="utf-8") as lines:
                rows += [_row(line) for line in lines if line.startswith(f'{{"trace_id":"{trace_id}')]
    return sorted(rows, key=lambda row: row.start_ns)


def _row(line: str) -> SpanRow:
    span = json.loads(line)
    return SpanRow(
        span["span_id"],
        span["parent_id"],
        span["name"],
        span["service"],
        span["start_ns"],
        span["end_ns"],
        span["status"] == "ERROR",
        span["attributes"],
    )


def draw(rows: list[SpanRow]) -> Tree:
    """Return the trace as a tree: each span with its service, duration and place in time."""
    start = min(row.start_ns for row in rows)
    whole = max(row.end_ns for row in rows) - start
    known = {row.span_id for row in rows}
    tree = Tree(Text(f"{whole / 1e6:.1f} ms, {len(rows)} spans", style="bold"))
    for root in (row for row in rows if row.parent_id not in known):
        _grow(tree, root, rows, (start, whole))
    return tree


def _grow(tree: Tree, row: SpanRow, rows: Iterable[SpanRow], frame: tuple[int, int]) -> None:
    branch = tree.add(_label(row, frame))
    for child in rows:
        if child.parent_id == row.span_id:
            _grow(branch, child, rows, frame)


def _label(row: SpanRow, frame: tuple[int, int]) -> Text:
    start, whole = frame
    offset = round((row.start_ns - start) / max(whole, 1) * BAR_WIDTH)
    length = max(1, round((row.end_ns - row.start_ns) / max(whole, 1) * BAR_WIDTH))
    bar = (" " * min(offset, BAR_WIDTH - 1) + "━" * length)[:BAR_WIDTH].ljust(BAR_WIDTH)
    label = Text(bar, style="red" if row.failed else "cyan")
    label.append(f" {(row.end_ns - row.start_ns) / 1e6:8.1f} ms  ", style="bold")
    label.append(f"{row.service}  ", style="green")
    label.append(row.name.rsplit(".", 1)[-1])
    for name, shown in SHOWN_ATTRIBUTES.items():
        if name in row.attributes:
            label.append(f"  {shown}={row.attributes[name]}", style="dim")
    return label
