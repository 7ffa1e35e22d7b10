"""Who asks: the API key at the door becomes the signed identity that goes on inside."""

from dataclasses import replace

from servicekit.identity import Identity, Minter

from gateway.core.key_ring import KeyRing
from gateway.core.scopes import internal


class Authenticator:
    """Turns the bearer value of either door into an identity; raises InvalidApiKey."""

    def __init__(self, key_ring: KeyRing, minter: Minter) -> None:
        self._key_ring = key_ring
        self._minter = minter

    async def __call__(self, bearer: str) -> Identity:
        """Return who asks, with the key's own scopes and a token for what serving those needs inside."""
        key = await self._key_ring.resolve(bearer)
        caller = Identity(tenant=key.tenant, principal=key.name, key_id=key.public_id, scopes=internal(key.scopes))
        return replace(self._minter.mint(caller), scopes=key.scopes)
