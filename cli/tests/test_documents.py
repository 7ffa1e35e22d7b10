"""Files become documents, in groups that one request can carry."""

import base64
from pathlib import Path

from penstock_cli import documents
from penstock_cli.documents import SourceFile, batches, document_id, find_files


def test_folders_are_searched_for_what_can_be_ingested(tmp_path: Path) -> None:
    for name in ("a.md", "b.txt", "sub/c.html", "sub/d.PDF", "e.png", "notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find_files([tmp_path, tmp_path / "a.md"])
    assert [file.document_id for file in found] == ["a.md", "b.txt", "sub-c.html", "sub-d.PDF"]


def test_ids_have_only_what_ids_may_have() -> None:
    assert document_id(Path("Größe & Maß/näme.txt")) == "Gr-e-Ma-n-me.txt"
    assert len(document_id(Path("x" * 300))) == 128


def test_a_file_travels_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    file.write_bytes(b"\x00\xff")
    document = SourceFile(file, "a.pdf").document()
    assert base64.b64decode(document["content_base64"]) == b"\x00\xff"
    assert document["media_type"] == "application/pdf"


def test_groups_stay_under_the_size_of_a_request(tmp_path: Path) -> None:
    files = []
    for number, size in enumerate((documents.LARGEST_REQUEST_BYTES - 10, 5, 6, documents.LARGEST_REQUEST_BYTES + 1)):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(b"a" * size)
        files.append(SourceFile(path, path.name))
    assert [[file.document_id for file in group] for group in batches(files)] == [
        ["0.txt", "1.txt"],
        ["2.txt"],
        ["3.txt"],
    ]
