"""API keys, made, changed, rotated and revoked by administrators."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from servicekit.errors import Conflict, Forbidden, InvalidInput, NotFound

from gateway.core.accounts import UNLIMITED, Account
from gateway.core.administration import Listed, amended, listed, note, require_rule
from gateway.core.changes import Page, Write
from gateway.core.entity_fields import KEY_FIELDS, check_id, checked, is_id, updated
from gateway.core.key_ring import wall_clock
from gateway.core.keys import ApiKey, hash_secret, new_key_text
from gateway.core.ports import AdminStore
from gateway.core.scopes import ADMIN, ROLES
from gateway.core.tenants import DEFAULT_PROJECT

LONGEST_GRACE_S: Final = 30 * 86_400
DEFAULT_NAME: Final = "default"
DEFAULT_ROLE: Final = "member"
ATTEMPTS: Final = 3


class RightsNotOwned(Forbidden):
    """An administrator of one tenant cannot make a key that rules over all."""

    default_reason = "rights_not_owned"


@dataclass(frozen=True, slots=True)
class KeyWish:
    """A key as it is asked for; no scopes are all of the role's."""

    tenant: str
    project: str = DEFAULT_PROJECT
    role: str = DEFAULT_ROLE
    scopes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, and its text, which nobody can show again."""

    key: ApiKey
    text: str


class KeyAdministration:
    """What administrators do with keys: `admin` with every key, `tenant-admin` with those of his tenant."""

    def __init__(self, store: AdminStore, now: Callable[[], datetime] = wall_clock) -> None:
        self._store = store
        self._now = now

    async def create(self, actor: Account, wish: KeyWish, values: Mapping[str, Any]) -> NewKey:
        """Make a key; raise NotFound for an unknown project, InvalidInput, MissingScope, RightsNotOwned."""
        require_rule(actor, wish.tenant)
        scopes = _scopes(actor, wish)
        fields = updated(UNLIMITED, {"name": DEFAULT_NAME, **checked(values, KEY_FIELDS)})
        check_id(wish.tenant, "tenant")
        check_id(wish.project, "project")
        if await self._store.find_tenancy(wish.tenant, wish.project) is None:
            raise NotFound(f"there is no project {wish.project!r} of a tenant {wish.tenant!r}", field="project")
        public_id, secret, text = new_key_text()
        now = self._now()
        key = ApiKey(
            public_id=public_id,
            secret_hash=hash_secret(secret),
            tenant=wish.tenant,
            project=wish.project,
            scopes=scopes,
            role=wish.role,
            created_at=now,
            **fields,
        )
        await self._store.commit([Write(key)], [note(actor, "key.create", None, key, now)])
        return NewKey(key, text)

    async def get(self, actor: Account, public_id: str) -> ApiKey:
        """Return a key; raise NotFound, also for a key of a tenant that the actor does not rule over."""
        require_rule(actor, actor.tenant)
        grant = await self._store.find(public_id) if is_id(public_id) else None
        if grant is None or (ADMIN not in actor.scopes and grant.key.tenant != actor.tenant):
            raise NotFound(f"there is no key {public_id!r}", field="public_id")
        return grant.key

    async def list(self, actor: Account, tenant: str | None, project: str | None, page: Page) -> Listed[ApiKey]:
        """Return keys: of a project, of a tenant, or of all that the actor rules over."""
        wanted = tenant or (None if ADMIN in actor.scopes else actor.tenant)
        require_rule(actor, wanted or actor.tenant)
        if not all(is_id(each) for each in (wanted, project) if each):
            return Listed([], "")
        found = await self._store.keys(wanted, project or None, replace(page, size=page.size + 1))
        return listed(found, page, lambda each: each.public_id)

    async def update(self, actor: Account, public_id: str, version: int, values: Mapping[str, Any]) -> ApiKey:
        """Change a key; raise NotFound, Conflict, InvalidInput."""
        before = await self.get(actor, public_id)
        after: ApiKey = amended(before, version, updated(before.limits, checked(values, KEY_FIELDS)))
        await self._store.commit([Write(after, version)], [note(actor, "key.update", before, after, self._now())])
        return after

    async def rotate(self, actor: Account, public_id: str, grace_s: float) -> NewKey:
        """Make a key with the same rights; the old one works for `grace_s` more seconds, 0 to 30 days.

        Raises NotFound, InvalidInput, and Conflict when the key no longer works or is rotated by somebody else.
        """
        if type(grace_s) not in {int, float} or not 0 <= grace_s <= LONGEST_GRACE_S:
            raise InvalidInput(f"grace_s has to be 0 to {LONGEST_GRACE_S} seconds", field="grace_s")
        old, now = await self.get(actor, public_id), self._now()
        if not old.is_live(now):
            raise Conflict(f"the key {public_id} no longer works", reason="key_not_live", field="public_id")
        _require_right(actor, old.scopes)
        new_id, secret, text = new_key_text()
        new = replace(
            old,
            public_id=new_id,
            secret_hash=hash_secret(secret),
            created_at=now,
            revoked_at=None,
            replaces=old.public_id,
            line=old.line_id,
            version=1,
        )
        ending = _ended(old, now + timedelta(seconds=grace_s))
        notes = [note(actor, "key.rotate", old, ending, now), note(actor, "key.create", None, new, now)]
        await self._store.commit([Write(ending, old.version), Write(new)], notes)
        return NewKey(new, text)

    async def revoke(self, actor: Account, public_id: str) -> ApiKey:
        """End a key now, whatever grace it had; a second time changes nothing. Raises NotFound."""
        for attempt in range(ATTEMPTS):
            key, now = await self.get(actor, public_id), self._now()
            if key.revoked_at is not None and key.revoked_at <= now:
                return key
            ended = _ended(key, now)
            try:
                await self._store.commit([Write(ended, key.version)], [note(actor, "key.revoke", key, ended, now)])
            except Conflict:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                return ended
        raise AssertionError("the last attempt returns or raises")


def _scopes(actor: Account, wish: KeyWish) -> frozenset[str]:
    most = ROLES.get(wish.role)
    if most is None:
        raise InvalidInput(f"role has to be one of {', '.join(ROLES)}", field="role")
    scopes = frozenset(wish.scopes) or most
    if unknown := scopes - most:
        raise InvalidInput(f"not in the role {wish.role!r}: {', '.join(sorted(unknown))}", field="scopes")
    _require_right(actor, scopes)
    return scopes


def _require_right(actor: Account, scopes: frozenset[str]) -> None:
    if ADMIN in scopes and ADMIN not in actor.scopes:
        raise RightsNotOwned(f"only who has the scope {ADMIN!r} can give it", field="scopes")


def _ended(key: ApiKey, moment: datetime) -> ApiKey:
    """Return a key that works until a moment, or until an earlier one that was set before."""
    return replace(key, revoked_at=min(key.revoked_at or moment, moment), version=key.version + 1)
