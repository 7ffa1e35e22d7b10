"""API keys: the text a caller holds, and what is kept of it."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

PREFIX: Final = "pst"
PUBLIC_ID_BYTES: Final = 8
SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: never its secret, only the SHA-256 of it.

    A plain hash is right here, and a slow one would add nothing: the secret is 32 random bytes, not a password.
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

    def opens_with(self, secret: str) -> bool:
        """Say whether this is the key's secret, in time that does not depend on the answer."""
        return hmac.compare_digest(self.secret_hash, hash_secret(secret))

    def is_live(self, now: datetime) -> bool:
        """Say whether the key is neither revoked nor expired at a moment."""
        ends = [moment for moment in (self.revoked_at, self.expires_at) if moment is not None]
        return all(now < moment for moment in ends)


def hash_secret(secret: str) -> str:
    """Return the SHA-256 of a secret in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_key_text() -> tuple[str, str, str]:
    """Return a fresh public id, its secret, and the text that holds both: `pst_<public id>_<secret>`."""
    public_id, secret = secrets.token_hex(PUBLIC_ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    return public_id, secret, f"{PREFIX}_{public_id}_{secret}"


def parse_key_text(text: str) -> tuple[str, str] | None:
    """Return public id and secret of a key's text, or None when it is not one."""
    prefix, _, rest = text.partition("_")
    public_id, _, secret = rest.partition("_")
    if prefix != PREFIX or len(public_id) != 2 * PUBLIC_ID_BYTES or not secret:
        return None
    return public_id, secret
