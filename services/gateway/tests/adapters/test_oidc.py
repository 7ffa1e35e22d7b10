"""Key sets over real HTTP, and the kinds of keys and signatures that PyJWT is trusted with."""

import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from gateway.adapters.oidc import LARGEST_KEY_SET_BYTES, AiohttpKeySets, PyJwtVerifier
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from servicekit.errors import Unavailable

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
JWKS = {
    "RS256": RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True),
    "PS256": RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True),
    "ES256": ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True),
    "EdDSA": OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True),
}
SIGNERS = {"RS256": RSA_KEY, "PS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}
CLAIMS = {"iss": "i", "aud": "a", "sub": "s", "exp": 99_999_999_999}


@pytest.mark.parametrize("algorithm", sorted(JWKS))
def test_signatures_of_every_kind(algorithm: str) -> None:
    verifier = PyJwtVerifier()
    key = verifier.key(JWKS[algorithm], algorithm)
    token = jwt.encode(CLAIMS, SIGNERS[algorithm], algorithm)
    assert verifier.claims(token, key, algorithm, "a", "i", 0) == CLAIMS
    for wrong in (("b", "i"), ("a", "j")):
        with pytest.raises(ValueError, match="not valid"):
            verifier.claims(token, key, algorithm, *wrong, 0)
    with pytest.raises(ValueError, match="not valid"):
        verifier.claims(token[:-8] + "AAAAAAAA", key, algorithm, "a", "i", 0)


@pytest.mark.parametrize(
    ("jwk", "algorithm"),
    [
        (JWKS["RS256"], "ES256"),
        (JWKS["ES256"], "RS256"),
        (JWKS["EdDSA"], "ES256"),
        (JWKS["ES256"], "ES384"),
        (JWKS["RS256"] | {"alg": "RS512"}, "RS256"),
        ({"kty": "oct", "k": "c2VjcmV0"}, "HS256"),
        ({"kty": "RSA"}, "RS256"),
        ({"kty": "RSA", "n": 5, "e": []}, "RS256"),
        ({"kty": "RSA", "n": "!!", "e": "AQAB"}, "RS256"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "AA"}, "EdDSA"),
        ({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "ES256"),
        ({"kty": ["RSA"]}, "RS256"),
        ({}, "RS256"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(jwk: dict[str, Any], algorithm: str) -> None:
    with pytest.raises(ValueError, match="key"):
        PyJwtVerifier().key(jwk, algorithm)


def test_a_short_key_is_refused() -> None:
    short = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    with pytest.raises(ValueError, match="too short"):
        PyJwtVerifier().key(short, "RS256")


class Publisher:
    """An HTTP server that answers as it is told, and counts."""

    def __init__(self) -> None:
        self.url = ""
        self.response: web.StreamResponse = web.json_response({"keys": [JWKS["EdDSA"]]})
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return self.response


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    made = Publisher()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield made
    await runner.cleanup()


async def test_a_key_set_is_fetched(publisher: Publisher) -> None:
    async with AiohttpKeySets.open() as source:
        assert await source.fetch(publisher.url) == [JWKS["EdDSA"]]


@pytest.mark.parametrize(
    "response",
    [
        web.Response(status=500),
        web.Response(status=302, headers={"Location": "/elsewhere"}),
        web.Response(text="<html>"),
        web.Response(text="[]"),
        web.Response(text='{"keys": {}}'),
        web.Response(text="[" * 100_000),
        web.Response(body=b"\xff\xfe"),
        web.Response(text=json.dumps({"keys": ["x" * LARGEST_KEY_SET_BYTES]})),
    ],
)
async def test_what_is_no_key_set_is_unavailable(publisher: Publisher, response: web.StreamResponse) -> None:
    publisher.response = response
    async with AiohttpKeySets.open() as source:
        with pytest.raises(Unavailable):
            await source.fetch(publisher.url)
    assert publisher.asked == ["/keys"], "a redirect is not followed"


async def test_an_issuer_that_is_not_there_is_unavailable() -> None:
    async with AiohttpKeySets.open() as source:
        with pytest.raises(Unavailable):
            await source.fetch("http://127.0.0.1:1/keys")
