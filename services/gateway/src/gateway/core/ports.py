"""What the gateway's core needs of the outside to know who calls."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gateway.core.changes import Change, Entity, Page, Write
from gateway.core.keys import ApiKey, KeyGrant
from gateway.core.tenants import Project, Tenancy, Tenant


class KeyStore(Protocol):
    """Where callers are looked up. Every method raises Unavailable when the store cannot be used."""

    async def find(self, public_id: str) -> KeyGrant | None:
        """Return the key with this public id, a revoked or expired one too, with project and tenant; or None."""
        ...

    async def find_tenancy(self, tenant: str, project: str) -> Tenancy | None:
        """Return a project with its tenant, or None when there is not both."""
        ...


class AdminStore(KeyStore, Protocol):
    """Where tenants, projects and keys are administered. Lists are in order of their ids."""

    async def tenant(self, tenant: str) -> Tenant | None:
        """Return a tenant, or None."""
        ...

    async def tenants(self, page: Page) -> Sequence[Tenant]:
        """Return tenants."""
        ...

    async def projects(self, tenant: str, page: Page) -> Sequence[Project]:
        """Return the projects of a tenant."""
        ...

    async def keys(self, tenant: str | None, project: str | None, page: Page) -> Sequence[ApiKey]:
        """Return keys: of a project, of a tenant, or everyone's."""
        ...

    async def changes(self, tenant: str | None, page: Page) -> Sequence[Change]:
        """Return what was changed, of a tenant or of all, newest first; a page goes on below the id it names."""
        ...

    async def commit(self, writes: Sequence[Write[Entity]], changes: Sequence[Change]) -> None:
        """Do all the writes and note the changes, or nothing; raise Conflict when one does not fit what is there."""
        ...


class TokenVerifier(Protocol):
    """Checks the signature and the registered claims of a JSON Web Token."""

    def key(self, jwk: Mapping[str, Any], algorithm: str) -> Any:
        """Return the public key that a JWK holds; raise ValueError when it is none for the algorithm."""
        ...

    def claims(self, token: str, key: Any, algorithm: str, audience: str, issuer: str, skew_s: float) -> dict[str, Any]:
        """Return the claims of a genuine token that is valid now; raise ValueError for any other."""
        ...


class KeySetSource(Protocol):
    """Where an issuer publishes the keys he signs with."""

    async def fetch(self, url: str) -> Sequence[Mapping[str, Any]]:
        """Return the JWKs at a URL; raise Unavailable when it cannot be had."""
        ...
