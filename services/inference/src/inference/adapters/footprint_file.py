"""Keeps learned footprints in a JSON file."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference.core.residency_ports import Footprint

MOST_MODELS: Final = 10_000
log = logging.getLogger(__name__)


class _Kept(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    bytes_: int = Field(ge=0, alias="bytes")
    load_s: float = Field(ge=0, le=86_400)


class _File(BaseModel):
    models: dict[str, _Kept] = Field(max_length=MOST_MODELS)


class FootprintFile:
    """A file of one server group; without a path nothing outlives the process."""

    def __init__(self, path: Path | None) -> None:
        """Take where the file is."""
        self._path = path

    async def read(self) -> dict[str, Footprint]:
        """Return what is in it; a file that cannot be read costs only what was learned."""
        if self._path is None:
            return {}
        return await asyncio.to_thread(_read, self._path)

    async def write(self, footprints: Mapping[str, Footprint]) -> None:
        """Write it anew, whole or not at all."""
        if self._path is not None:
            await asyncio.to_thread(_write, self._path, footprints)


def _read(path: Path) -> dict[str, Footprint]:
    try:
        kept = _File.model_validate_json(path.read_bytes()).models
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        log.warning("footprints in %s are not used: %s", path, error)
        return {}
    return {name: Footprint(each.bytes_, each.load_s) for name, each in kept.items()}


def _write(path: Path, footprints: Mapping[str, Footprint]) -> None:
    models = {name: {"bytes": each.bytes_, "load_s": each.load_s} for name, each in footprints.items()}
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(orjson.dumps({"models": models}, option=orjson.OPT_INDENT_2))
        beside.replace(path)
    except OSError as error:
        log.warning("footprints could not be written to %s: %s", path, error)
