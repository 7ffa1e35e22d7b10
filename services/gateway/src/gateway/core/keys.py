"""API keys: the text a caller holds, and what is kept of it."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from gateway.core.accounts import UNLIMITED, Account, Limits, Priority, Subject
from gateway.core.tenants import DEFAULT_PROJECT, Tenancy

PREFIX: Final = "pst"
PUBLIC_ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
_TEXT: Final = re.compile(rf"{PREFIX}_([0-9a-f]{{{2 * PUBLIC_ID_BYTES}}})_([A-Za-z0-9_-]{{1,128}})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: never its secret, only the SHA-256 of it.

    A plain hash is right here, and a slow one would add nothing: the secret is 32 random bytes, not a password.
    `revoked_at` may lie in the future: until then a rotated key still works. `replaces` is the key it was rotated from,
    `line` the first of that line, empty for a first one.
    """

    public_id: str
    secret_hash: str = field(repr=False)
    tenant: str
    name: str
    scopes: frozenset[str]
    role: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    project: str = DEFAULT_PROJECT
    priority: Priority = Priority.STANDARD
    limits: Limits = UNLIMITED
    models: tuple[str, ...] | None = None
    replaces: str = ""
    line: str = ""
    version: int = 1

    @property
    def line_id(self) -> str:
        """The public id of the first key of the line: rotating a key neither resets its limits nor splits its usage."""
        return self.line or self.public_id

    @property
    def ends_at(self) -> datetime | None:
        """The moment from which the key no longer works, or None."""
        return min((moment for moment in (self.revoked_at, self.expires_at) if moment is not None), default=None)

    def opens_with(self, secret: str) -> bool:
        """Say whether this is the key's secret, in time that does not depend on the answer."""
        return hmac.compare_digest(self.secret_hash, hash_secret(secret))

    def is_live(self, now: datetime) -> bool:
        """Say whether the key is neither revoked nor expired at a moment."""
        return self.ends_at is None or now < self.ends_at


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """A key with the project and the tenant it belongs to, found in one look-up."""

    key: ApiKey
    tenancy: Tenancy

    def account(self) -> Account:
        """Return what is known of whoever calls with the key."""
        key, tenant, project = self.key, self.tenancy.tenant, self.tenancy.project
        lists = (tenant.models, project.models, key.models)
        return Account(
            tenant=tenant.id,
            project=project.id,
            key_id=key.line_id,
            principal=key.name,
            scopes=key.scopes,
            subjects=(tenant.subject, project.subject, Subject("key", key.line_id, key.limits)),
            allowlists=tuple(models for models in lists if models is not None),
            region=tenant.region,
            priority=min(key.priority, tenant.highest_priority),
        )


def hash_secret(secret: str) -> str:
    """Return the SHA-256 of a secret in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_key_text() -> tuple[str, str, str]:
    """Return a fresh public id, its secret, and the text that holds both: `pst_<public id>_<secret>`."""
    public_id, secret = secrets.token_hex(PUBLIC_ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    return public_id, secret, f"{PREFIX}_{public_id}_{secret}"


def parse_key_text(text: str) -> tuple[str, str] | None:
    """Return public id and secret of a key's text, or None when it is not one."""
    parts = _TEXT.fullmatch(text)
    return None if parts is None else (parts[1], parts[2])
