"""Saves and restores the volumes of an installation by compose, while its services are stopped.

`archive.py save` writes an archive of each folder in /volumes to /backup, and a manifest of their digests. `archive.py
restore` checks every archive against the manifest before it writes anything, and writes into empty volumes only.
"""

import hashlib
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

VOLUMES = Path("/volumes")
BACKUP = Path("/backup")
MANIFEST = "manifest.json"
FORMAT = 1


class BadBackup(Exception):
    """What was asked cannot be done without losing something; the message says why."""


def save(volumes: Path, backup: Path) -> list[str]:
    """Write every volume that holds something to `backup`; the manifest last, so that half a backup is none."""
    if (backup / MANIFEST).exists():
        raise BadBackup(f"{backup} holds a backup already: take an empty folder")
    digests = {}
    for volume in sorted(each for each in volumes.iterdir() if any(each.iterdir())):
        file = backup / f"{volume.name}.tar.gz"
        with tarfile.open(file, "w:gz", compresslevel=1) as archive:
            archive.add(volume, ".")
        digests[volume.name] = digest(file)
    part = backup / f"{MANIFEST}.part"
    part.write_text(json.dumps({"format": FORMAT, "volumes": digests}, indent=1))
    part.replace(backup / MANIFEST)
    return list(digests)


def restore(volumes: Path, backup: Path) -> list[str]:
    """Fill the volumes from `backup`, owners and modes too."""
    digests = checked(volumes, backup)
    for name in digests:
        with tarfile.open(backup / f"{name}.tar.gz") as archive:
            archive.extractall(volumes / name, numeric_owner=True)  # noqa: S202  its digest is that of our own archive
    return list(digests)


def checked(volumes: Path, backup: Path) -> dict[str, str]:
    """Return the digests of the backup; raise BadBackup for one that is not whole, or volumes that are not empty."""
    try:
        manifest: dict[str, Any] = json.loads((backup / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BadBackup(f"{backup} holds no whole backup: {error}") from error
    if manifest.get("format") != FORMAT:
        raise BadBackup(f"the backup has the format {manifest.get('format')}, and this program reads {FORMAT}")
    digests: dict[str, str] = manifest["volumes"]
    for name, expected in digests.items():
        file = backup / f"{name}.tar.gz"
        if not file.exists() or digest(file) != expected:
            raise BadBackup(f"{file.name} is not what was saved")
        if not (volumes / name).is_dir() or any((volumes / name).iterdir()):
            raise BadBackup(f"the volume {name} is not empty: remove the volumes first (compose down --volumes)")
    return digests


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> None:
    """Do what the command line says; what cannot be done is said in one line and exits with 1."""
    actions = {"save": save, "restore": restore}
    try:
        done = actions[sys.argv[1]](VOLUMES, BACKUP)
    except BadBackup as error:
        sys.stderr.write(f"archive: {error}\n")
        sys.exit(1)
    sys.stdout.write(f"{sys.argv[1]}d: {', '.join(done)}\n")


if __name__ == "__main__":
    main()
