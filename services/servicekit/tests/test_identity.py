"""Tokens: what is in them, and what is refused."""

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from servicekit.errors import Forbidden, Unauthenticated
from servicekit.identity import Identity, Minter, Verifier, current, current_token
from servicekit.testing import PRIVATE_KEY_PEM, PUBLIC_KEY_PEM

ADA = Identity("acme", "ada", "key-1", frozenset({"ask", "models"}), region="eu", priority="batch")


def test_what_is_signed_is_read_back() -> None:
    signed = Minter(PRIVATE_KEY_PEM).mint(ADA)
    assert Verifier(PUBLIC_KEY_PEM).verify(signed.token) == ADA
    assert ADA.tenant in repr(signed)
    assert signed.token not in repr(signed)


def test_one_token_serves_half_of_its_life() -> None:
    now = [1_000.0]
    minter = Minter(PRIVATE_KEY_PEM, lifetime_s=100, clock=lambda: now[0])
    first = minter.mint(ADA).token
    now[0] += 49
    assert minter.mint(ADA).token == first
    now[0] += 2
    assert minter.mint(ADA).token != first


def test_an_expired_token_is_refused_even_when_it_was_seen_before() -> None:
    now = [0.0]
    signed = Minter(PRIVATE_KEY_PEM, lifetime_s=0.5).mint(ADA)
    expiry = jwt.decode(signed.token, options={"verify_signature": False})["exp"]
    verifier = Verifier(PUBLIC_KEY_PEM, clock=lambda: now[0])
    now[0] = expiry - 1
    assert verifier.verify(signed.token) == ADA
    now[0] = expiry + 1
    stale = Minter(PRIVATE_KEY_PEM, lifetime_s=0.5, clock=lambda: 1_000.0).mint(ADA).token
    with pytest.raises(Unauthenticated):
        verifier.verify(stale)


@pytest.mark.parametrize("change", [{"aud": "others"}, {"iss": "others"}, {"tenant": None}, {"scope": None}])
def test_a_token_that_is_not_for_us_is_refused(change: dict[str, str | None]) -> None:
    claims = jwt.decode(Minter(PRIVATE_KEY_PEM).mint(ADA).token, options={"verify_signature": False})
    changed = {name: value for name, value in (claims | change).items() if value is not None}
    key = load_pem_private_key(PRIVATE_KEY_PEM, password=None)
    assert isinstance(key, Ed25519PrivateKey)
    with pytest.raises(Unauthenticated):
        Verifier(PUBLIC_KEY_PEM).verify(jwt.encode(changed, key, algorithm="EdDSA"))


def test_another_key_or_no_signature_is_refused() -> None:
    claims = jwt.decode(Minter(PRIVATE_KEY_PEM).mint(ADA).token, options={"verify_signature": False})
    forged = [
        jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA"),
        jwt.encode(claims, "", "none"),
        "",
        "a.b.c",
    ]
    for token in forged:
        with pytest.raises(Unauthenticated):
            Verifier(PUBLIC_KEY_PEM).verify(token)


def test_scopes_are_required_one_by_one() -> None:
    ADA.require("ask")
    ADA.require("")
    with pytest.raises(Forbidden):
        ADA.require("admin")


def test_outside_of_a_call_nobody_is_known() -> None:
    assert current_token() == ""
    with pytest.raises(Unauthenticated):
        current()
