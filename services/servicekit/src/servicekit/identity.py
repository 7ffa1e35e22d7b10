"""Who asks: a short-lived EdDSA token that the gateway signs and every service verifies."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from servicekit.errors import Forbidden, Unauthenticated

ISSUER: Final = "penstock-gateway"
AUDIENCE: Final = "penstock"
ALGORITHM: Final = "EdDSA"
CLOCK_SKEW_S: Final = 5
CACHED_TOKENS: Final = 4096


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: whose data he sees (`tenant`), who he is, and what he may do (`scopes`)."""

    tenant: str
    principal: str
    key_id: str
    scopes: frozenset[str]
    region: str = ""
    priority: str = "standard"
    token: str = field(default="", repr=False, compare=False)

    def require(self, scope: str) -> None:
        """Raise Forbidden when the caller lacks a scope; the empty scope is everybody's."""
        if scope and scope not in self.scopes:
            raise Forbidden(f"this needs the scope {scope!r}", reason="missing_scope")


_current: ContextVar[Identity | None] = ContextVar("identity", default=None)


def current() -> Identity:
    """Return who makes the call at hand; raise Unauthenticated outside of one."""
    identity = _current.get()
    if identity is None:
        raise Unauthenticated("no caller is known")
    return identity


def current_token() -> str:
    """Return the token to pass on, or the empty string outside of a call."""
    identity = _current.get()
    return "" if identity is None else identity.token


@contextmanager
def acting_as(identity: Identity) -> Iterator[Identity]:
    """Make the calls inside on behalf of `identity`."""
    token = _current.set(identity)
    try:
        yield identity
    finally:
        _current.reset(token)


def enter(identity: Identity) -> None:
    """Set who makes the call that just came in; for the server's interceptor, whose context ends with the call."""
    _current.set(identity)


class Minter:
    """Signs identities; the gateway alone holds the private key."""

    def __init__(self, private_key_pem: bytes, lifetime_s: float = 300, clock: Callable[[], float] = time.time) -> None:
        key = load_pem_private_key(private_key_pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("the identity key is not an Ed25519 private key")
        self._key = key
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._minted: OrderedDict[Identity, tuple[Identity, float]] = OrderedDict()

    def mint(self, identity: Identity) -> Identity:
        """Return the identity with a token that lives at least half of the lifetime (seconds)."""
        now = self._clock()
        known = self._minted.get(identity)
        if known is not None and known[1] > now:
            return known[0]
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": int(now),
            "exp": int(now + self._lifetime_s),
            "sub": identity.principal,
            "tenant": identity.tenant,
            "key": identity.key_id,
            "scope": " ".join(sorted(identity.scopes)),
            "region": identity.region,
            "priority": identity.priority,
        }
        signed = replace(identity, token=jwt.encode(claims, self._key, algorithm=ALGORITHM))
        self._minted[identity] = (signed, now + self._lifetime_s / 2)
        if len(self._minted) > CACHED_TOKENS:
            self._minted.popitem(last=False)
        return signed


class Verifier:
    """Verifies tokens against the gateway's public key and remembers those it has seen until they expire."""

    def __init__(self, public_key_pem: bytes, clock: Callable[[], float] = time.time) -> None:
        key = load_pem_public_key(public_key_pem)
        if not isinstance(key, Ed25519PublicKey):
            raise TypeError("the identity key is not an Ed25519 public key")
        self._key = key
        self._clock = clock
        self._seen: OrderedDict[str, tuple[Identity, float]] = OrderedDict()

    def verify(self, token: str) -> Identity:
        """Return whose token it is; raise Unauthenticated when it is missing, forged, expired or not for us."""
        known = self._seen.get(token)
        if known is not None and known[1] > self._clock():
            return known[0]
        if not token:
            raise Unauthenticated("no token was sent", reason="missing_token")
        claims = self._claims(token)
        identity = Identity(
            tenant=str(claims["tenant"]),
            principal=str(claims["sub"]),
            key_id=str(claims["key"]),
            scopes=frozenset(str(claims["scope"]).split()),
            region=str(claims["region"]),
            priority=str(claims["priority"]),
            token=token,
        )
        self._seen[token] = (identity, float(claims["exp"]))
        if len(self._seen) > CACHED_TOKENS:
            self._seen.popitem(last=False)
        return identity

    def _claims(self, token: str) -> dict[str, Any]:
        required = ["exp", "iat", "sub", "tenant", "key", "scope", "region", "priority"]
        try:
            return jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=CLOCK_SKEW_S,
                options={"require": required},
            )
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("the token is not valid", reason="invalid_token") from error
