"""Who a bearer value makes the caller, at both doors, and what goes on inside in his name."""

import asyncio

import pytest
from gateway.adapters.oidc import PyJwtVerifier
from gateway.api.authentication import Authenticator
from gateway.core import accounts
from gateway.core.accounts import Priority
from gateway.core.key_ring import InvalidApiKey, KeyRing
from gateway.core.oidc import InvalidToken, Issuer, TokenRing
from gateway_account_fakes import Clock, FakeAccounts, FakeIssuer, new_key
from servicekit.errors import Unauthenticated
from servicekit.identity import Minter, Verifier
from servicekit.testing import PRIVATE_KEY_PEM, PUBLIC_KEY_PEM

ISSUER = Issuer(
    "corp", "https://issuer.example", "penstock", "https://issuer.example/k", frozenset({"EdDSA"}), tenant="acme"
)


class Doorman:
    """An authenticator over one key and one issuer."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = FakeAccounts()
        self.issuer = FakeIssuer()
        tokens = TokenRing([ISSUER], self.issuer, PyJwtVerifier(), self.store)
        ring = KeyRing(self.store, clock_s=self.clock.monotonic)
        self.authenticate = Authenticator(ring, Minter(PRIVATE_KEY_PEM), tokens, self.clock.monotonic)


@pytest.fixture
def doorman() -> Doorman:
    return Doorman()


async def test_a_key_becomes_a_signed_identity_and_an_account(doorman: Doorman) -> None:
    key, text = new_key(frozenset({"ask"}), priority=Priority.BATCH)
    await doorman.store.add(key)
    identity, account = await doorman.authenticate(text)
    assert (identity.tenant, identity.principal, identity.key_id) == ("acme", "tester", key.public_id)
    assert (identity.scopes, identity.priority, identity.region) == ({"ask"}, "batch", "")
    inside = Verifier(PUBLIC_KEY_PEM).verify(identity.token)
    assert inside.scopes == {"ask", "models", "embeddings", "knowledge:read"}
    assert inside.priority == "batch"
    again = await doorman.authenticate(text)
    assert again[0] is identity
    assert again[1] is account


async def test_a_token_becomes_a_signed_identity_too(doorman: Doorman) -> None:
    await doorman.store.add(new_key()[0])
    identity, account = await doorman.authenticate(doorman.issuer.token(scope="models"))
    assert (identity.principal, identity.key_id, account.project) == ("ada", "oidc:corp", "default")
    assert Verifier(PUBLIC_KEY_PEM).verify(identity.token).scopes == {"models"}


async def test_an_identity_is_signed_again_before_it_expires(doorman: Doorman) -> None:
    key, text = new_key()
    await doorman.store.add(key)
    authenticate = Authenticator(
        KeyRing(doorman.store, clock_s=doorman.clock.monotonic),
        Minter(PRIVATE_KEY_PEM, 30, doorman.clock.monotonic),
        clock_s=doorman.clock.monotonic,
    )
    first, account = await authenticate(text)
    doorman.clock.turn(20)
    second, same = await authenticate(text)
    assert same is account
    assert second.token != first.token


async def test_what_is_wrong_is_refused(doorman: Doorman) -> None:
    without_issuers = Authenticator(KeyRing(doorman.store), Minter(PRIVATE_KEY_PEM))
    for bearer in ("", "nope", "pst_0123456789abcdef_x"):
        with pytest.raises(InvalidApiKey):
            await doorman.authenticate(bearer)
    with pytest.raises(InvalidToken):
        await doorman.authenticate("a.b.c")
    with pytest.raises(InvalidToken):
        await without_issuers(doorman.issuer.token())


async def test_signed_identities_are_bounded(doorman: Doorman, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.authentication.SIGNED", 3)
    await doorman.store.add(new_key()[0])
    for number in range(10):
        await doorman.authenticate(doorman.issuer.token(sub=f"user-{number}"))
    assert len(doorman.authenticate._signed) == 3


async def test_each_call_has_its_own_account(doorman: Doorman) -> None:
    texts = []
    for tenant in ("acme", "rival"):
        key, text = new_key(tenant=tenant)
        await doorman.store.add(key)
        texts.append(text)

    async def call(text: str) -> str:
        await doorman.authenticate.enter(text)
        await asyncio.sleep(0)
        return accounts.current().tenant

    assert await asyncio.gather(*(call(text) for text in texts)) == ["acme", "rival"]
    with pytest.raises(Unauthenticated):
        accounts.current()
