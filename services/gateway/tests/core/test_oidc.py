"""Tokens of declared issuers open what their claims say, and no other token opens anything."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from gateway.adapters.oidc import PyJwtVerifier
from gateway.core.accounts import Limits, Priority
from gateway.core.key_sets import REFETCH_S, REFRESH_S, STALE_S
from gateway.core.oidc import LONGEST_TOKEN, InvalidToken, Issuer, TokenRing, UnknownTenant, looks_like_token
from gateway.core.tenants import Project, Tenant
from gateway_account_fakes import START, Clock, FakeAccounts, FakeIssuer
from servicekit.errors import PenstockError, Unavailable

ISSUER = Issuer(
    name="corp",
    issuer="https://issuer.example",
    audience="penstock",
    jwks_url="https://issuer.example/keys",
    algorithms=frozenset({"EdDSA"}),
    tenant_claim="tenant",
    project_claim="project",
    role_claim="realm_access.roles",
    roles={"analyst": "reader", "root": "admin"},
)


class World:
    """An issuer, accounts, and the ring between them."""

    def __init__(self, issuer: Issuer = ISSUER) -> None:
        self.clock = Clock(datetime.now(UTC))
        self.issuer = FakeIssuer()
        self.store = FakeAccounts()
        for entity in (
            Tenant("acme", START, Limits(tokens_per_minute=9), ("w*",), "eu", Priority.BATCH),
            Project("acme", "default", START),
            Project("acme", "web", START, models=("writer",)),
            Tenant("other", START),
            Project("other", "default", START),
        ):
            name = (entity.tenant, entity.id) if isinstance(entity, Project) else entity.id
            self.store.rows[type(entity), name] = entity
        self.ring = TokenRing([issuer], self.issuer, PyJwtVerifier(), self.store, self.clock.wall, self.clock.monotonic)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_token_opens_what_its_claims_say(world: World) -> None:
    token = world.issuer.token(project="web", realm_access={"roles": ["analyst", "unknown"]})
    account = await world.ring.resolve(token)
    assert (account.tenant, account.project, account.principal) == ("acme", "web", "ada")
    assert account.key_id == "oidc:corp"
    assert account.scopes == {"models", "ask", "embeddings", "knowledge:read", "features:read"}
    assert (account.region, account.priority) == ("eu", Priority.BATCH)
    assert account.allowlists == (("w*",), ("writer",))
    assert [(each.kind, each.id) for each in account.subjects] == [("tenant", "acme"), ("project", "acme/web")]
    assert await world.ring.resolve(token) is account
    assert world.issuer.fetches == 1


async def test_a_token_gives_no_more_than_its_issuer_may(world: World) -> None:
    token = world.issuer.token(scope="admin models tenant-admin", realm_access={"roles": ["root"]})
    assert not (await world.ring.resolve(token)).scopes & {"admin", "tenant-admin"}
    bare = world.issuer.token(scope=None)
    assert (await world.ring.resolve(bare)).scopes == frozenset()
    generous = World(replace(ISSUER, default_role="reader", scope_claim="scp"))
    assert "ask" in (await generous.ring.resolve(generous.issuer.token())).scopes
    listed = generous.issuer.token(scp=["models", 7, None])
    assert (await generous.ring.resolve(listed)).scopes == {"models"}


def unsigned(claims: dict[str, Any], **header: Any) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (header, claims)]
    return b".".join([*parts, b""]).decode()


def claims_of(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1_000_000_000},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 1e300},
        {"nbf": 99_999_999_999},
        {"iat": 99_999_999_999},
        {"aud": "somebody-else"},
        {"aud": None},
        {"aud": ["a", "b"]},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"iss": ["https://issuer.example"]},
        {"sub": None},
        {"sub": ""},
        {"sub": "line\r\nbreak"},
        {"sub": "x" * 129},
    ],
)
async def test_a_token_that_is_not_valid_here_and_now(world: World, claims: dict[str, Any]) -> None:
    now = datetime.now(UTC).timestamp()
    standard = {"iss": ISSUER.issuer, "aud": ISSUER.audience, "sub": "ada", "exp": now + 600, "tenant": "acme"}
    kept = {name: value for name, value in (standard | claims).items() if value is not None}
    token = jwt.api_jws.encode(json.dumps(kept).encode(), world.issuer.keys["k1"], "EdDSA", headers={"kid": "k1"})
    with pytest.raises(InvalidToken) as caught:
        await world.ring.resolve(token)
    assert token not in str(caught.value)


async def test_a_forged_token_opens_nothing(world: World) -> None:
    token = world.issuer.token()
    header, claims, signature = token.split(".")
    stranger = jwt.encode(claims_of(token), Ed25519PrivateKey.generate(), "EdDSA", headers={"kid": "k1"})
    public = world.issuer.keys["k1"].public_key()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    hmac_key = jwt.encode(claims_of(token), raw, "HS256", headers={"kid": "k1"})
    other_claims = unsigned(claims_of(token) | {"tenant": "other"}, alg="EdDSA").split(".")[1]
    forged = [
        stranger,
        hmac_key,
        f"{header}.{other_claims}.{signature}",
        f"{header}.{claims}.",
        f"{header}.{claims}.{signature[:-4]}AAAA",
        *(unsigned(claims_of(token), alg=alg, kid="k1") for alg in ("none", "None", "nOnE", "", "EdDSA", None, 5)),
        unsigned(claims_of(token), kid="k1"),
        world.issuer.token(headers={"crit": ["exp"], "exp": 1}),
        world.issuer.token(headers={"jku": "https://evil.example/keys", "kid": "k9"}),
    ]
    for each in forged:
        with pytest.raises(InvalidToken):
            await world.ring.resolve(each)
    assert (await world.ring.resolve(token)).principal == "ada"


def part_of(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode()


@pytest.mark.parametrize(
    "token",
    [
        "..",
        "a.b.c",
        "é.é.é",
        "\ud800.\ud800.\ud800",
        "e30.e30.e30",
        "bnVsbA.bnVsbA.x",
        f"{part_of(b'[' * 3000)}.e30.x",
        "e30." + part_of(b'{"a":' * 600) + ".x",
        "x" * LONGEST_TOKEN + ".a.b",
    ],
)
async def test_what_is_no_token_is_refused_before_anything_is_fetched(world: World, token: str) -> None:
    assert looks_like_token(token)
    with pytest.raises(InvalidToken):
        await world.ring.resolve(token)
    assert world.issuer.fetches == 0


@pytest.mark.parametrize("tenant", [None, "", "nobody", "ACME", 7, ["acme"], "a\x00b", "' or '1'='1"])
async def test_a_tenant_that_is_not_known(world: World, tenant: Any) -> None:
    with pytest.raises(UnknownTenant):
        await world.ring.resolve(world.issuer.token(tenant=tenant))
    assert world.store.lookups == (tenant == "nobody"), "what cannot be a name is not looked up"
    with pytest.raises(UnknownTenant):
        await world.ring.resolve(world.issuer.token(project="nowhere"))


async def test_an_issuer_stays_within_his_tenants(world: World) -> None:
    bounded = World(replace(ISSUER, tenants=frozenset({"acme"})))
    with pytest.raises(UnknownTenant):
        await bounded.ring.resolve(bounded.issuer.token(tenant="other"))
    fixed = World(replace(ISSUER, tenant_claim="", tenant="acme"))
    assert (await fixed.ring.resolve(fixed.issuer.token(tenant="other"))).tenant == "acme"


async def test_the_clock_may_be_off_by_the_skew_and_no_more(world: World) -> None:
    now = datetime.now(UTC).timestamp()
    token = world.issuer.token(exp=now - 5)
    assert (await world.ring.resolve(token)).principal == "ada"
    world.clock.turn(26)
    with pytest.raises(InvalidToken):
        await world.ring.resolve(token)


async def test_a_tenants_change_reaches_his_tokens_within_five_seconds(world: World) -> None:
    token = world.issuer.token()
    assert (await world.ring.resolve(token)).region == "eu"
    tenant = world.store.rows[Tenant, "acme"]
    assert isinstance(tenant, Tenant)
    world.store.rows[Tenant, "acme"] = replace(tenant, region="us")
    world.clock.turn(5)
    assert (await world.ring.resolve(token)).region == "us"


async def test_a_new_key_of_the_issuer_is_fetched_once(world: World) -> None:
    await world.ring.resolve(world.issuer.token())
    world.clock.turn(REFETCH_S)
    world.issuer.keys["k2"] = Ed25519PrivateKey.generate()
    assert (await world.ring.resolve(world.issuer.token("k2"))).principal == "ada"
    assert world.issuer.fetches == 2
    for number in range(100):
        with pytest.raises(InvalidToken):
            await world.ring.resolve(world.issuer.token(f"unknown-{number}"))
    assert world.issuer.fetches == 2, "unknown key ids do not become requests to the issuer"


async def test_a_key_that_the_issuer_withdrew_ends(world: World) -> None:
    world.issuer.keys["k2"] = Ed25519PrivateKey.generate()
    token = world.issuer.token("k2", exp=datetime.now(UTC).timestamp() + 10 * REFRESH_S)
    await world.ring.resolve(token)
    del world.issuer.keys["k2"]
    world.clock.turn(REFRESH_S)
    with pytest.raises(InvalidToken):
        await world.ring.resolve(token)


async def test_issuers_may_change_while_tokens_are_known(world: World) -> None:
    token = world.issuer.token(scope="models ask")
    await world.ring.resolve(token)
    world.ring.declare([replace(ISSUER, scopes=frozenset({"ask"}))])
    world.clock.turn(5)
    assert (await world.ring.resolve(token)).scopes == {"ask"}
    assert world.issuer.fetches == 1
    world.ring.declare([])
    world.clock.turn(5)
    with pytest.raises(InvalidToken):
        await world.ring.resolve(token)


async def test_known_keys_serve_through_an_outage_for_a_stated_time(world: World) -> None:
    end = datetime.now(UTC).timestamp() + 10 * STALE_S
    token, other = world.issuer.token(exp=end), world.issuer.token(exp=end, sub="bob")
    await world.ring.resolve(token)
    world.issuer.down = True
    world.clock.turn(STALE_S - 10)
    assert (await world.ring.resolve(other)).principal == "bob"
    world.issuer.keys["k2"] = Ed25519PrivateKey.generate()
    with pytest.raises(Unavailable):
        await world.ring.resolve(world.issuer.token("k2", exp=end))
    world.clock.turn(20)
    with pytest.raises(PenstockError) as caught:
        await world.ring.resolve(token)
    assert caught.value.reason == "issuer_unreachable"
    world.issuer.down = False
    world.clock.turn(REFETCH_S)
    assert (await world.ring.resolve(token)).principal == "ada"


async def test_many_tokens_leave_memory_bounded(world: World) -> None:
    for number in range(1_500):
        with pytest.raises(InvalidToken):
            await world.ring.resolve(f"e30.e30.{number}")
    genuine = world.issuer.token().rsplit(".", 1)[0]
    for number in range(1_500):
        with pytest.raises(InvalidToken):
            await world.ring.resolve(f"{genuine}.{number:086d}")
    assert len(world.ring._cache) <= 1_000


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithms": frozenset({"HS256"})},
        {"algorithms": frozenset({"none"})},
        {"algorithms": frozenset()},
        {"jwks_url": "http://issuer.example/keys"},
        {"jwks_url": "http://169.254.169.254/latest"},
        {"jwks_url": "http://127.0.0.1.evil.example/keys"},
        {"jwks_url": "http://localhost@evil.example/keys"},
        {"jwks_url": "file:///etc/passwd"},
        {"jwks_url": "https://user@issuer.example/keys"},
        {"tenant": "acme"},
        {"tenant_claim": ""},
        {"audience": ""},
        {"roles": {"x": "emperor"}},
        {"skew_s": 3_600},
        {"skew_s": -1},
    ],
)
def test_a_declaration_that_could_not_be_kept_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        replace(ISSUER, **changes)


@pytest.mark.parametrize("url", ["https://a.example/k", "http://127.0.0.1:8/k", "http://[::1]/k", "http://localhost/k"])
def test_key_sets_come_over_https_or_from_here(url: str) -> None:
    assert replace(ISSUER, jwks_url=url).jwks_url == url
