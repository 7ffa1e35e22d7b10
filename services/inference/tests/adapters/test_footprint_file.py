"""The file in which footprints outlive the pool."""

from pathlib import Path

import pytest
from inference.adapters.footprint_file import FootprintFile
from inference.core.residency_ports import Footprint

LEARNED = {"a": Footprint(123_456_789, 0.5), "b/c": Footprint(0, 61.25)}


async def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = FootprintFile(tmp_path / "state/footprints.json")
    assert await file.read() == {}
    await file.write(LEARNED)
    assert await file.read() == LEARNED
    await file.write({"a": Footprint(1, 2.0)})
    assert await file.read() == {"a": Footprint(1, 2.0)}
    assert [each.name for each in (tmp_path / "state").iterdir()] == ["footprints.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"models": {"a": {"bytes": -1, "load_s": 0}}}', b'{"models": {"a": {"bytes": "1"}}}', b"\xff"],
)
async def test_a_file_that_is_wrong_costs_only_what_was_learned(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "footprints.json"
    path.write_bytes(content)
    assert await FootprintFile(path).read() == {}
    await FootprintFile(path).write(LEARNED)
    assert await FootprintFile(path).read() == LEARNED


async def test_a_place_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    file = FootprintFile(tmp_path / "file/footprints.json")
    await file.write(LEARNED)
    assert await file.read() == {}


async def test_without_a_path_nothing_is_kept() -> None:
    file = FootprintFile(None)
    await file.write(LEARNED)
    assert await file.read() == {}
