"""Fakes of what is known of callers: accounts in memory, an issuer of tokens, and clocks that are turned by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gateway.core.accounts import Account
from gateway.core.changes import Change, Entity, Page, Write
from gateway.core.keys import ApiKey, KeyGrant, hash_secret, new_key_text
from gateway.core.scopes import TENANT_SCOPES
from gateway.core.tenants import DEFAULT_PROJECT, Project, Tenancy, Tenant
from jwt.algorithms import OKPAlgorithm
from servicekit.errors import Conflict, Unavailable

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that is turned by hand, on the wall and monotonic."""

    def __init__(self, moment: datetime = START) -> None:
        self.moment = moment

    def turn(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    def wall(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()


class FakeAccounts:
    """Tenants, projects, keys and changes in dictionaries, with a switch that breaks them."""

    def __init__(self) -> None:
        self.rows: dict[tuple[type, Any], Entity] = {}
        self.noted: list[Change] = []
        self.broken = False
        self.lookups = 0

    async def add(self, key: ApiKey) -> None:
        """Keep a key; its tenant and project are made if they are not there."""
        tenant = Tenant(key.tenant, key.created_at)
        for entity in (tenant, Project(key.tenant, DEFAULT_PROJECT, tenant.created_at)):
            self.rows.setdefault(_name(entity), entity)
        if _name(key) in self.rows:
            raise Conflict("there is already a key with this public id")
        self.rows[_name(key)] = key

    async def revoke(self, public_id: str, moment: datetime) -> None:
        """End a key."""
        key = self.rows[ApiKey, public_id]
        assert isinstance(key, ApiKey)
        self.rows[ApiKey, public_id] = replace(key, revoked_at=moment)

    async def find(self, public_id: str) -> KeyGrant | None:
        self._check()
        key = self.rows.get((ApiKey, public_id))
        if not isinstance(key, ApiKey):
            return None
        tenancy = self._tenancy(key.tenant, key.project)
        return None if tenancy is None else KeyGrant(key, tenancy)

    async def find_tenancy(self, tenant: str, project: str) -> Tenancy | None:
        self._check()
        return self._tenancy(tenant, project)

    async def tenant(self, tenant: str) -> Tenant | None:
        self._check()
        return self.rows.get((Tenant, tenant))  # type: ignore[return-value]

    async def tenants(self, page: Page) -> Sequence[Tenant]:
        return self._page(Tenant, page, lambda each: each.id)

    async def projects(self, tenant: str, page: Page) -> Sequence[Project]:
        return [
            each
            for each in self._page(Project, Page(10_000), lambda each: each.id)
            if each.tenant == tenant and each.id > page.after
        ][: page.size]

    async def keys(self, tenant: str | None, project: str | None, page: Page) -> Sequence[ApiKey]:
        found = self._page(ApiKey, Page(10_000, page.after), lambda each: each.public_id)
        return [each for each in found if tenant in {None, each.tenant} and project in {None, each.project}][
            : page.size
        ]

    async def changes(self, tenant: str | None, page: Page) -> Sequence[Change]:
        self._check()
        before = int(page.after) if page.after else len(self.noted) + 1
        found = [each for each in reversed(self.noted) if each.id < before and tenant in {None, each.tenant}]
        return found[: page.size]

    async def commit(self, writes: Sequence[Write[Entity]], changes: Sequence[Change]) -> None:
        self._check()
        rows = dict(self.rows)
        for write in writes:
            there = rows.get(_name(write.entity))
            if (0 if there is None else there.version) != write.over:
                raise Conflict("it was changed meanwhile", reason="version_conflict", field="version")
            rows[_name(write.entity)] = write.entity
        self.rows = rows
        self.noted += [replace(each, id=len(self.noted) + index) for index, each in enumerate(changes, 1)]

    def _check(self) -> None:
        self.lookups += 1
        if self.broken:
            raise Unavailable("the key store cannot be used", reason="key_store_failed")

    def _tenancy(self, tenant: str, project: str) -> Tenancy | None:
        found = self.rows.get((Tenant, tenant)), self.rows.get((Project, (tenant, project)))
        return Tenancy(*found) if all(found) else None  # type: ignore[arg-type]

    def _page(self, kind: type, page: Page, name: Any) -> list[Any]:
        self._check()
        found = sorted((each for each in self.rows.values() if isinstance(each, kind)), key=name)
        return [each for each in found if name(each) > page.after][: page.size]


def _name(entity: Entity) -> tuple[type, Any]:
    if isinstance(entity, Project):
        return Project, (entity.tenant, entity.id)
    return type(entity), entity.public_id if isinstance(entity, ApiKey) else entity.id


def new_key(scopes: frozenset[str] = TENANT_SCOPES, **changes: Any) -> tuple[ApiKey, str]:
    """Return a key and its text."""
    public_id, secret, text = new_key_text()
    key = ApiKey(public_id, hash_secret(secret), "acme", "tester", scopes, "member", datetime.now(UTC))
    return replace(key, **changes), text


def actor(*scopes: str, tenant: str = "acme") -> Account:
    """Return who administers."""
    return Account(tenant, DEFAULT_PROJECT, "boss-key", "boss", frozenset(scopes))


class FakeIssuer:
    """An issuer with Ed25519 keys, who publishes them and signs tokens; he can be down."""

    def __init__(self) -> None:
        self.keys = {"k1": Ed25519PrivateKey.generate()}
        self.down = False
        self.fetches = 0

    async def fetch(self, url: str) -> Sequence[Mapping[str, Any]]:
        self.fetches += 1
        if self.down:
            raise Unavailable("the key set cannot be read")
        return [
            {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig", "alg": "EdDSA"}
            for key_id, key in self.keys.items()
        ]

    def token(self, key_id: str = "k1", headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """Return a signed token; a claim that is None is left out."""
        now = datetime.now(UTC).timestamp()
        every = {
            "iss": "https://issuer.example",
            "aud": "penstock",
            "sub": "ada",
            "exp": now + 600,
            "iat": now,
            "tenant": "acme",
            "scope": "models ask",
        } | claims
        kept = {name: value for name, value in every.items() if value is not None}
        key = self.keys.get(key_id) or self.keys["k1"]
        return jwt.encode(kept, key, algorithm="EdDSA", headers={"kid": key_id, **(headers or {})})
