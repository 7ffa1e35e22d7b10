"""What a caller may do at the door, the roles that bundle it, and what the services behind may do in his name."""

from collections.abc import Mapping
from typing import Final

from servicekit.errors import Forbidden

MODELS: Final = "models"
EMBEDDINGS: Final = "embeddings"
ASK: Final = "ask"
KNOWLEDGE_READ: Final = "knowledge:read"
KNOWLEDGE_WRITE: Final = "knowledge:write"
FEATURES_READ: Final = "features:read"
FEATURES_WRITE: Final = "features:write"
TENANT_ADMIN: Final = "tenant-admin"
ADMIN: Final = "admin"

TENANT_SCOPES: Final = frozenset(
    {MODELS, EMBEDDINGS, ASK, KNOWLEDGE_READ, KNOWLEDGE_WRITE, FEATURES_READ, FEATURES_WRITE}
)
ALL_SCOPES: Final = TENANT_SCOPES | {TENANT_ADMIN, ADMIN}

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "reader": frozenset({MODELS, EMBEDDINGS, ASK, KNOWLEDGE_READ, FEATURES_READ}),
    "member": TENANT_SCOPES,
    "tenant-admin": TENANT_SCOPES | {TENANT_ADMIN},
    "admin": ALL_SCOPES,
}
"""The most that a key of each role may do; a key may have fewer scopes than its role."""

_IMPLIED: Final = {
    ASK: frozenset({MODELS, EMBEDDINGS, KNOWLEDGE_READ}),
    KNOWLEDGE_READ: frozenset({EMBEDDINGS}),
    KNOWLEDGE_WRITE: frozenset({EMBEDDINGS, KNOWLEDGE_READ}),
    EMBEDDINGS: frozenset({MODELS}),
}
"""What a service needs of the next one: a question is embedded, searched for and answered by a model."""


class MissingScope(Forbidden):
    """The caller is known, but may not do this."""

    default_reason = "missing_scope"


def internal(scopes: frozenset[str]) -> frozenset[str]:
    """Return the scopes of the token that goes on inside: the key's, and what serving those needs.

    The door itself checks the key's own scopes, so a key for questions opens neither models nor knowledge bases.
    """
    granted = scopes
    while (wider := granted.union(*(_IMPLIED.get(scope, frozenset()) for scope in granted))) != granted:
        granted = wider
    return granted


def require(scopes: frozenset[str], scope: str) -> None:
    """Raise MissingScope when a key lacks a scope."""
    if scope not in scopes:
        raise MissingScope(f"the API key lacks the scope {scope!r}")
