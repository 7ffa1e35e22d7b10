"""Who asks: the API key or the token at the door becomes the signed identity that goes on inside."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from servicekit.identity import Identity, Minter

from gateway.core import accounts
from gateway.core.accounts import Account
from gateway.core.key_ring import KeyRing
from gateway.core.oidc import InvalidToken, TokenRing, looks_like_token
from gateway.core.scopes import internal

SIGNED_S: Final = 4.0
"""How long a signed identity is used before the minter is asked again; it lives much longer."""
SIGNED: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Signed:
    account: Account
    identity: Identity
    until_s: float


class Authenticator:
    """Turns the bearer value of either door into who asks; raises InvalidApiKey, InvalidToken and UnknownTenant."""

    def __init__(
        self,
        key_ring: KeyRing,
        minter: Minter,
        token_ring: TokenRing | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key_ring = key_ring
        self._token_ring = token_ring
        self._minter = minter
        self._clock_s = clock_s
        self._signed: OrderedDict[int, _Signed] = OrderedDict()

    async def __call__(self, bearer: str) -> tuple[Identity, Account]:
        """Return who asks, with his own scopes and a token for what serving those needs inside, and his account."""
        if looks_like_token(bearer):
            if self._token_ring is None:
                raise InvalidToken("no issuer of tokens is declared")
            account = await self._token_ring.resolve(bearer)
        else:
            account = await self._key_ring.resolve(bearer)
        signed, clock_s = self._signed.get(id(account)), self._clock_s()
        if signed is None or signed.account is not account or clock_s >= signed.until_s:
            signed = self._sign(account, clock_s)
        return signed.identity, account

    async def enter(self, bearer: str) -> Identity:
        """Return who asks, and make his account that of the call that just came in; for a server's interceptor."""
        identity, account = await self(bearer)
        accounts.enter(account)
        return identity

    def _sign(self, account: Account, clock_s: float) -> _Signed:
        caller = Identity(
            tenant=account.tenant,
            principal=account.principal,
            key_id=account.key_id,
            scopes=internal(account.scopes),
            region=account.region,
            priority=account.priority.label,
        )
        identity = replace(self._minter.mint(caller), scopes=account.scopes)
        signed = _Signed(account, identity, clock_s + SIGNED_S)
        self._signed[id(account)] = signed  # the entry keeps the account, so its id is not another one's
        self._signed.move_to_end(id(account))
        if len(self._signed) > SIGNED:
            self._signed.popitem(last=False)
        return signed
