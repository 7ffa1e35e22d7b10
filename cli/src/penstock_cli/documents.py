"""Turns files into documents as the gateway takes them."""

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEDIA_TYPES = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
}
LARGEST_REQUEST_BYTES = 8 * 1024 * 1024
MOST_DOCUMENTS = 50


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file, and the document id it gets: its path with everything unusual written as `-`."""

    path: Path
    document_id: str

    def document(self) -> dict[str, Any]:
        """Return the document as JSON takes it."""
        content = base64.b64encode(self.path.read_bytes()).decode()
        media_type = MEDIA_TYPES[self.path.suffix.lower()]
        return {"id": self.document_id, "media_type": media_type, "content_base64": content}


def find_files(paths: Iterable[Path]) -> list[SourceFile]:
    """Return the files that can be ingested, folders searched through, in order of path."""
    found: dict[Path, SourceFile] = {}
    for path in paths:
        root = path.parent if path.is_file() else path
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            if file.suffix.lower() in MEDIA_TYPES:
                found[file] = SourceFile(file, document_id(file.relative_to(root)))
    return list(found.values())


def document_id(path: Path) -> str:
    """Return an id of at most 128 of the characters that ids may have."""
    return re.sub(r"[^A-Za-z0-9_.:-]+", "-", path.as_posix())[-128:]


def batches(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """Yield files in groups that one request can carry."""
    group: list[SourceFile] = []
    size = 0
    for file in files:
        length = file.path.stat().st_size
        if group and (size + length > LARGEST_REQUEST_BYTES or len(group) == MOST_DOCUMENTS):
            yield group
            group, size = [], 0
        group.append(file)
        size += length
    if group:
        yield group
