"""What the gateway's core needs of the outside."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from gateway.core.keys import ApiKey


class KeyStore(Protocol):
    """Where API keys are kept. Every method raises Unavailable when the store cannot be used."""

    async def find(self, public_id: str) -> ApiKey | None:
        """Return the key with this public id, revoked and expired ones too, or None."""
        ...

    async def add(self, key: ApiKey) -> None:
        """Keep a new key; raise Conflict when its public id is taken."""
        ...

    async def revoke(self, public_id: str, moment: datetime) -> bool:
        """Revoke a key from `moment` on; return False when there is no such key. The first revocation counts."""
        ...

    async def all(self, tenant: str | None = None) -> Sequence[ApiKey]:
        """Return the keys of a tenant, or of everyone, oldest first."""
        ...
