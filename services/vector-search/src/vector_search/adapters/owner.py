"""One process owns a data directory, which has a name; another one that wants it is told who does."""

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OwnedByAnother(RuntimeError):
    """Another process has the data directory."""


@contextmanager
def owning(directory: Path) -> Iterator[None]:
    """Own the directory, which is made where it is not there, until the block ends or the process dies.

    Raises OwnedByAnother, at once, naming the process that has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "owner.json").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise OwnedByAnother(f"{directory} is owned by {_named(file.read())}; stop it first") from error
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield


def name_of(directory: Path) -> str:
    """Return what tells this directory from every other, 16 hexadecimal digits, made at first by its owner."""
    file = directory / "name"
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_text(secrets.token_hex(8), "ascii")
        part.replace(file)
    return file.read_text("ascii")


def _named(content: str) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process, which has not written its name yet"
