"""JSON Web Tokens through PyJWT, and the key sets of their issuers through aiohttp."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from servicekit.errors import Unavailable

FETCH_TIMEOUT_S: Final = 3.0
LARGEST_KEY_SET_BYTES: Final = 256 * 1024
SHORTEST_RSA_BITS: Final = 2048
CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


class PyJwtVerifier:
    """Checks tokens with PyJWT; whatever is wrong with one is a ValueError."""

    def key(self, jwk: Mapping[str, Any], algorithm: str) -> Any:
        """Return the public key in a JWK; raise ValueError when it is none for the algorithm or too short."""
        if jwk.get("alg", algorithm) != algorithm:
            raise ValueError("the key is for another algorithm")
        try:
            key = jwt.PyJWK.from_dict(dict(jwk), algorithm).key
        except jwt.PyJWTError as error:
            raise ValueError("the key cannot be read") from error
        if not _fits(key, algorithm):
            raise ValueError("the key is too short or for another algorithm")
        return key

    def claims(self, token: str, key: Any, algorithm: str, audience: str, issuer: str, skew_s: float) -> dict[str, Any]:
        """Return the claims of a genuine token that is valid now, within `skew_s`; raise ValueError."""
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=audience,
                issuer=issuer,
                leeway=skew_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise ValueError("the token is not valid") from error


class AiohttpKeySets:
    """Fetches key sets: no redirect is followed, and size and time are bounded."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["AiohttpKeySets"]:
        """Open a session; proxies and credentials of the environment are not used."""
        timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=jar, trust_env=False) as session:
            yield cls(session)

    async def fetch(self, url: str) -> Sequence[Mapping[str, Any]]:
        """Return the JWKs at a URL; raise Unavailable when it cannot be had."""
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise _unreachable(f"it answers {response.status}")
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > LARGEST_KEY_SET_BYTES:
                        raise _unreachable("its answer is too large")
                return _keys(bytes(body))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(type(error).__name__) from error


def _fits(key: Any, algorithm: str) -> bool:
    """Say whether it is a public key of the kind that an algorithm takes, long enough and of the right curve."""
    if algorithm in CURVES:
        return isinstance(key, EllipticCurvePublicKey) and key.curve.name == CURVES[algorithm]
    if algorithm == "EdDSA":
        return isinstance(key, Ed25519PublicKey | Ed448PublicKey)
    if algorithm.startswith(("RS", "PS")):
        return isinstance(key, RSAPublicKey) and key.key_size >= SHORTEST_RSA_BITS
    return False


def _keys(body: bytes) -> Sequence[Mapping[str, Any]]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreachable("its answer is not JSON") from error
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise _unreachable("its answer is no key set")
    return [key for key in keys if isinstance(key, dict)]


def _unreachable(why: str) -> Unavailable:
    return Unavailable(f"the key set cannot be read: {why}", reason="issuer_unreachable")
