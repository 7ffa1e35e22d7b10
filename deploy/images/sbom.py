"""Writes the bill of materials of an image, CycloneDX 1.5: its Debian packages and its Python packages."""

import json
import sys
from collections.abc import Iterator
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def debian(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what the packages unpacked into the image say of themselves."""
    for file in sorted(folder.iterdir()):
        fields = HeaderParser().parsestr(file.read_text("utf-8"))
        name, version = fields["Package"], fields["Version"]
        reference = (
            f"pkg:deb/debian/{name}@{version.replace(':', '%3A').replace('+', '%2B')}?arch={fields['Architecture']}"
        )
        yield {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}


def python(folders: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the installed distributions, with the licence that each declares."""
    found = sorted(distributions(path=folders), key=lambda each: each.metadata["Name"].lower())
    for each in found:
        name = each.metadata["Name"].lower().replace("_", "-")
        reference = f"pkg:pypi/{name}@{each.version}"
        made = {"type": "library", "bom-ref": reference, "name": name, "version": each.version, "purl": reference}
        licence = each.metadata.get("License-Expression")
        yield made | ({"licenses": [{"expression": licence}]} if licence else {})


def main() -> None:
    """Print the bill: sbom.py SERVICE STATUS_FOLDER PACKAGES_FOLDER..."""
    service, status, *packages = sys.argv[1:]
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": f"penstock-{service}"}},
        "components": [*debian(Path(status)), *python(packages)],
    }
    json.dump(bill, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
