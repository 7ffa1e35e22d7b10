"""Turns a token of a declared OpenID Connect issuer into the account of whoever holds it."""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from servicekit.errors import Forbidden, Unauthenticated

from gateway.core.accounts import Account, Priority
from gateway.core.caller_cache import CallerCache, Resolved
from gateway.core.entity_fields import is_id
from gateway.core.key_ring import wall_clock
from gateway.core.key_sets import KeySet, check_key_set_url
from gateway.core.ports import KeySetSource, KeyStore, TokenVerifier
from gateway.core.scopes import ROLES, TENANT_SCOPES
from gateway.core.tenants import DEFAULT_PROJECT

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""What may be declared: signatures by a private key that only the issuer has."""
LONGEST_TOKEN: Final = 8_192
MOST_BRACKETS: Final = 200
LONGEST_PRINCIPAL: Final = 128
LARGEST_SKEW_S: Final = 300


class InvalidToken(Unauthenticated):
    """A token that is malformed, forged, expired, not valid yet, for somebody else, or of an issuer not declared."""

    default_reason = "invalid_token"


class UnknownTenant(Forbidden):
    """A genuine token whose tenant or project is not known here."""

    default_reason = "unknown_tenant"


@dataclass(frozen=True, slots=True)
class Issuer:
    """A declared issuer, and how his claims are read. A claim's name may be a path such as `realm_access.roles`.

    Exactly one of `tenant` (fixed) and `tenant_claim` is given; `tenants`, if any are named, are the only ones it may
    name. `scopes` are the most that a token can give; without a scope or role in the token, `default_role` counts.
    """

    name: str
    issuer: str
    audience: str
    jwks_url: str
    algorithms: frozenset[str] = frozenset({"RS256"})
    skew_s: float = 30.0
    tenant: str = ""
    tenant_claim: str = ""
    tenants: frozenset[str] = frozenset()
    project: str = DEFAULT_PROJECT
    project_claim: str = ""
    principal_claim: str = "sub"
    scope_claim: str = "scope"
    role_claim: str = ""
    roles: Mapping[str, str] | None = None
    default_role: str = ""
    scopes: frozenset[str] = TENANT_SCOPES
    priority: Priority = Priority.STANDARD

    def __post_init__(self) -> None:
        """Refuse a declaration that could not be kept; raises ValueError."""
        if not self.issuer or not self.audience:
            raise ValueError("issuer and audience are needed")
        check_key_set_url(self.jwks_url)
        if not 0 <= self.skew_s <= LARGEST_SKEW_S:
            raise ValueError(f"skew_s has to be 0 to {LARGEST_SKEW_S} s")
        if not self.algorithms or not self.algorithms <= ALGORITHMS:
            raise ValueError(f"algorithms have to be of {', '.join(sorted(ALGORITHMS))}")
        if bool(self.tenant) == bool(self.tenant_claim):
            raise ValueError("either tenant or tenant_claim is needed")
        if unknown := ({self.default_role, *(self.roles or {}).values()} - {""}) - ROLES.keys():
            raise ValueError(f"unknown roles: {', '.join(sorted(unknown))}")

    def granted(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """Return the scopes that the claims give: those named, and those of the roles, within what may be given."""
        named = frozenset(_words(_claim(claims, self.scope_claim)))
        roles = {(self.roles or {}).get(role, "") for role in _words(_claim(claims, self.role_claim))} - {""}
        if not roles and not named & self.scopes:
            roles = {self.default_role} - {""}
        return self.scopes & named.union(*(ROLES[role] for role in roles))

    def place(self, claims: Mapping[str, Any]) -> tuple[str, str]:
        """Return the tenant and the project that the claims name; raise UnknownTenant."""
        tenant = self.tenant or _text(_claim(claims, self.tenant_claim))
        if not tenant or (self.tenants and tenant not in self.tenants):
            raise UnknownTenant("the token's tenant is not known here")
        if self.project_claim and (project := _claim(claims, self.project_claim)) is not None:
            return tenant, _text(project)
        return tenant, self.project


class TokenRing:
    """Finds accounts by tokens. Signature, claims and tenancy are checked anew every few seconds."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        keys: KeySetSource,
        verifier: TokenVerifier,
        store: KeyStore,
        now: Callable[[], datetime] = wall_clock,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuers: dict[str, tuple[Issuer, KeySet]] = {}
        self._keys = keys
        self._clock_s = clock_s
        self._verifier = verifier
        self._store = store
        self._now = now
        self._cache = CallerCache(clock_s)
        self.declare(issuers)

    def declare(self, issuers: Sequence[Issuer]) -> None:
        """Take other issuers; tokens of one that is gone end within 5 s. Key sets that stay where they are are kept."""
        known = {issuer.jwks_url: key_set for issuer, key_set in self._issuers.values()}
        self._issuers = {
            issuer.issuer: (issuer, known.get(issuer.jwks_url) or KeySet(self._keys, issuer.jwks_url, self._clock_s))
            for issuer in issuers
        }

    async def resolve(self, token: str) -> Account:
        """Return the account of a valid token; raise InvalidToken, UnknownTenant, or Unavailable."""
        if len(token) > LONGEST_TOKEN:
            raise InvalidToken("the token is too long")

        async def look_up() -> Resolved | None:
            return await self._verified(token)

        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        resolved = await self._cache.resolve(digest, look_up)
        if resolved is None or (resolved.ends_at is not None and self._now() >= resolved.ends_at):
            raise InvalidToken("the token is not valid")
        return resolved.account

    async def _verified(self, token: str) -> Resolved | None:
        """Return whose token it is, or None when it is not genuine or not valid now."""
        header, unproven = _peek(token)
        declared = self._issuers.get(_text(unproven.get("iss")))
        algorithm = _text(header.get("alg"))
        if declared is None or algorithm not in declared[0].algorithms or "crit" in header:
            return None
        issuer, key_set = declared
        jwk = await key_set.find(_text(header.get("kid")))
        if jwk is None:
            return None
        try:
            key = self._verifier.key(jwk, algorithm)
            claims = self._verifier.claims(token, key, algorithm, issuer.audience, issuer.issuer, issuer.skew_s)
            ends_at = datetime.fromtimestamp(float(claims["exp"]) + issuer.skew_s, UTC)
        except (ValueError, OverflowError, OSError):
            return None
        return Resolved(await self._account(issuer, claims), ends_at)

    async def _account(self, issuer: Issuer, claims: Mapping[str, Any]) -> Account:
        principal = _text(_claim(claims, issuer.principal_claim))
        if not principal or len(principal) > LONGEST_PRINCIPAL or not principal.isprintable():
            raise InvalidToken("the token does not say who holds it")
        place = issuer.place(claims)
        tenancy = await self._store.find_tenancy(*place) if all(is_id(name) for name in place) else None
        if tenancy is None:
            raise UnknownTenant("the token's tenant or project is not known here")
        tenant, project = tenancy.tenant, tenancy.project
        return Account(
            tenant=tenant.id,
            project=project.id,
            key_id=f"oidc:{issuer.name}",
            principal=principal,
            scopes=issuer.granted(claims),
            subjects=(tenant.subject, project.subject),
            allowlists=tuple(models for models in (tenant.models, project.models) if models is not None),
            region=tenant.region,
            priority=min(issuer.priority, tenant.highest_priority),
        )


def looks_like_token(bearer: str) -> bool:
    """Say whether a bearer value has the form of a JSON Web Token, which no API key has."""
    return bearer.count(".") == 2


def _peek(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return header and claims that nothing has proven yet; raise InvalidToken when there are none."""
    header, claims, _ = token.split(".")
    return _object(header), _object(claims)


def _object(part: str) -> Mapping[str, Any]:
    try:
        text = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        if text.count(b"[") + text.count(b"{") > MOST_BRACKETS:  # what is nested deeper than that is an attack
            raise InvalidToken("the token is not valid")
        found = json.loads(text)
    except (ValueError, binascii.Error) as error:
        raise InvalidToken("the token is not valid") from error
    if not isinstance(found, dict):
        raise InvalidToken("the token is not valid")
    return found


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim of that name, else the one that the path leads to, or None."""
    if not path or path in claims:
        return claims.get(path)
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _words(value: Any) -> list[str]:
    """Return the words of a claim: a text of words, or a list of texts."""
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
