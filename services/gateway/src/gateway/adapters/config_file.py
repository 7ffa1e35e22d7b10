"""The gateway's configuration file: checked as a whole, and followed while it changes."""

import asyncio
import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from gateway.adapters import strict_yaml
from gateway.adapters.config_entries import (
    AdmissionEntry,
    CooldownEntry,
    Entry,
    IssuerEntry,
    LedgerEntry,
    LimitsPolicyEntry,
    ModelName,
    RouteEntry,
    SloEntry,
    TenantEntry,
)
from gateway.core.configuration import Configuration, mistakes
from gateway.core.live_configuration import BadConfiguration
from gateway.core.oidc import Issuer

MOST_LINES: Final = 100


class ConfigFile(Entry):
    """The whole file."""

    tenants: dict[str, TenantEntry] = Field({}, max_length=10_000)
    routes: dict[ModelName, RouteEntry] = Field({}, max_length=1_000)
    oidc: dict[str, IssuerEntry] = Field({}, max_length=100)
    slo: SloEntry = SloEntry()
    admission: AdmissionEntry = AdmissionEntry()
    cooldown: CooldownEntry = CooldownEntry()
    limits: LimitsPolicyEntry = LimitsPolicyEntry()
    ledger: LedgerEntry = LedgerEntry()

    def configuration(self, digest: str) -> Configuration:
        """Return what the core knows of it; raise BadConfiguration with every mistake."""
        lines = list(self._mistakes())
        issuers: dict[str, Issuer] = {}
        for name, entry in self.oidc.items():
            try:
                issuers[name] = entry.issuer_named(name)
            except ValueError as error:
                lines.append(f"oidc.{name}: {error}")
        found = Configuration(
            tenants={name: entry.declaration(name) for name, entry in self.tenants.items()},
            routes={alias: entry.route(alias) for alias, entry in self.routes.items()},
            oidc=issuers,
            slo=self.slo.target(),
            slo_by_route={alias: entry.slo.target() for alias, entry in self.routes.items() if entry.slo},
            admission=self.admission.policy(),
            cooldown=self.cooldown.policy(),
            limits=self.limits.policy(),
            ledger=self.ledger.policy(),
            digest=digest,
        )
        lines += mistakes(found, None)
        if lines:
            raise BadConfiguration(lines[:MOST_LINES])
        return found

    def _mistakes(self) -> Iterator[str]:
        for name, tenant in self.tenants.items():
            yield from tenant.mistakes(f"tenants.{name[:100]}", name)
        yield from self.admission.mistakes()
        yield from self.cooldown.mistakes()


def parse(raw: bytes) -> tuple[ConfigFile, Configuration]:
    """Return a file's content as written and as it is used; raise BadConfiguration with every mistake."""
    try:
        document = strict_yaml.load(raw)
    except strict_yaml.YamlMistake as error:
        raise BadConfiguration([str(error)]) from error
    if document is None:
        raise BadConfiguration(["it is empty; write {} for a configuration without anything"])
    try:
        file = ConfigFile.model_validate(document)
    except ValidationError as error:
        raise BadConfiguration([_line(each) for each in error.errors()[:MOST_LINES]]) from error
    return file, file.configuration(hashlib.sha256(raw).hexdigest())


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes, no more than can be used; raise BadConfiguration when it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadConfiguration([f"{path} is not a file"])
        with path.open("rb") as file:
            return file.read(strict_yaml.LARGEST_BYTES + 1)
    except OSError as error:
        raise BadConfiguration([f"{path} cannot be read: {error.strerror}"]) from error


class ConfigurationFile:
    """A file that is followed. What it says counts when it has stood for a whole poll: writers may be half done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = ""
        self._pending = ""

    def first(self) -> Configuration:
        """Return what the file says at the start; raise BadConfiguration."""
        configuration = parse(read_bytes(self._path))[1]
        self._digest = configuration.digest
        return configuration

    async def latest(self) -> Configuration | None:
        """Return what the file says when that is new, else None; raise BadConfiguration, once for each wrong content.

        What cannot be read is said at each call, until it can be.
        """
        try:
            raw = await asyncio.to_thread(read_bytes, self._path)
        except BadConfiguration:
            self._digest = self._pending = ""
            raise
        digest, waited = hashlib.sha256(raw).hexdigest(), self._pending
        self._pending = digest
        if digest in {self._digest, ""} or digest != waited:
            return None
        self._digest = digest
        return (await asyncio.to_thread(parse, raw))[1]


def _line(error: ErrorDetails) -> str:
    """Return a mistake with the path of its field, shortened: a hostile file may have long ones."""
    parts = [part for part in error["loc"] if part != "[key]"]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in parts).removeprefix(".")
    return f"{where}: {error['msg']}" if where else error["msg"]
