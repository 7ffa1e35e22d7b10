"""Keys are found by their text, live ones only, and from memory for a few seconds."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from gateway.core.accounts import Limits, Priority
from gateway.core.caller_cache import CACHE_S, FRESH_S, UNKNOWN_CALLERS
from gateway.core.key_ring import InvalidApiKey, KeyRing
from gateway.core.keys import ApiKey, KeyGrant, new_key_text, parse_key_text
from gateway.core.tenants import Tenant
from gateway_account_fakes import START, Clock, FakeAccounts, new_key
from servicekit.errors import Unavailable


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> FakeAccounts:
    return FakeAccounts()


@pytest.fixture
def ring(store: FakeAccounts, clock: Clock) -> KeyRing:
    return KeyRing(store, clock.wall, clock.monotonic)


async def test_a_key_is_looked_up_once_in_a_while_and_stays_one_account(
    ring: KeyRing, store: FakeAccounts, clock: Clock
) -> None:
    key, text = new_key()
    await store.add(key)
    first = await ring.resolve(text)
    assert await ring.resolve(text) is first
    assert store.lookups == 1
    clock.turn(CACHE_S)
    assert await ring.resolve(text) is first
    assert store.lookups == 2


async def test_what_an_account_is_made_of(ring: KeyRing, store: FakeAccounts) -> None:
    limits = Limits(requests_per_minute=3)
    key, text = new_key(models=("a*",), priority=Priority.INTERACTIVE, limits=limits, line="first")
    store.rows[Tenant, "acme"] = Tenant("acme", START, models=("b*",), region="eu", highest_priority=Priority.STANDARD)
    await store.add(key)
    account = await ring.resolve(text)
    assert (account.tenant, account.project, account.region) == ("acme", "default", "eu")
    assert account.key_id == "first"
    assert account.priority is Priority.STANDARD, "a tenant's highest priority caps the key's"
    assert [(each.kind, each.id) for each in account.subjects] == [
        ("tenant", "acme"),
        ("project", "acme/default"),
        ("key", "first"),
    ]
    assert account.subjects[2].limits == limits
    assert account.allowlists == (("b*",), ("a*",))


@pytest.mark.parametrize("seconds", [CACHE_S, 5.0])
async def test_a_revocation_is_live_within_five_seconds_in_every_worker(
    store: FakeAccounts, clock: Clock, seconds: float
) -> None:
    rings = [KeyRing(store, clock.wall, clock.monotonic) for _ in range(2)]
    key, text = new_key()
    await store.add(key)
    for ring in rings:
        await ring.resolve(text)
    await store.revoke(key.public_id, clock.wall())
    clock.turn(seconds)
    for ring in rings:
        with pytest.raises(InvalidApiKey):
            await ring.resolve(text)


async def test_a_change_of_the_tenant_is_live_within_five_seconds(
    ring: KeyRing, store: FakeAccounts, clock: Clock
) -> None:
    key, text = new_key()
    await store.add(key)
    before = await ring.resolve(text)
    tenant = store.rows[Tenant, "acme"]
    assert isinstance(tenant, Tenant)
    store.rows[Tenant, "acme"] = replace(tenant, region="eu", limits=Limits(tokens_per_minute=0), models=())
    clock.turn(5)
    after = await ring.resolve(text)
    assert after is not before
    assert (after.region, after.subjects[0].limits.tokens_per_minute) == ("eu", 0)
    assert not after.allows("writer")


@pytest.mark.parametrize("ends", ["expires_at", "revoked_at"])
async def test_a_key_ends_on_time_though_remembered(
    ring: KeyRing, store: FakeAccounts, clock: Clock, ends: str
) -> None:
    key, text = new_key(**{ends: clock.wall() + timedelta(seconds=1)})
    await store.add(key)
    await ring.resolve(text)
    clock.turn(0.999)
    await ring.resolve(text)
    clock.turn(0.001)
    with pytest.raises(InvalidApiKey):
        await ring.resolve(text)


async def test_a_wrong_secret_opens_nothing_and_shuts_nothing(ring: KeyRing, store: FakeAccounts) -> None:
    key, text = new_key()
    await store.add(key)
    for wrong in (text + "x", text[:-1], text.upper(), f"pst_{key.public_id}_", f"pst_{key.public_id}", "pst__x"):
        with pytest.raises(InvalidApiKey):
            await ring.resolve(wrong)
    assert (await ring.resolve(text)).key_id == key.public_id


async def test_bad_keys_leave_memory_bounded_and_good_keys_known(
    ring: KeyRing, store: FakeAccounts, clock: Clock
) -> None:
    key, text = new_key()
    await store.add(key)
    await ring.resolve(text)
    lookups = store.lookups
    for position in range(100 * UNKNOWN_CALLERS):
        with pytest.raises(InvalidApiKey):
            await ring.resolve(f"pst_{position:016x}_x")
    assert len(ring._cache) == UNKNOWN_CALLERS + 1
    await ring.resolve(text)
    assert store.lookups == lookups + 100 * UNKNOWN_CALLERS


async def test_an_unknown_key_is_remembered_for_a_while(ring: KeyRing, store: FakeAccounts) -> None:
    for _ in range(3):
        with pytest.raises(InvalidApiKey):
            await ring.resolve("pst_0123456789abcdef_x")
    assert store.lookups == 1


async def test_a_key_made_after_it_was_asked_for_is_live_within_five_seconds(
    ring: KeyRing, store: FakeAccounts, clock: Clock
) -> None:
    key, text = new_key()
    with pytest.raises(InvalidApiKey):
        await ring.resolve(text)
    await store.add(key)
    clock.turn(5)
    assert (await ring.resolve(text)).key_id == key.public_id


@pytest.mark.parametrize(
    "text", [None, "", "x" * 257, "\ud800", "pst_0123456789ABCDEF_x", "pst_0123456789abcdef_ü", "' or 1=1"]
)
async def test_what_cannot_be_a_key_is_not_looked_up(ring: KeyRing, store: FakeAccounts, text: str | None) -> None:
    with pytest.raises(InvalidApiKey):
        await ring.resolve(text)
    assert store.lookups == 0


class SlowAccounts(FakeAccounts):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def find(self, public_id: str):
        self.lookups += 1
        await self.gate.wait()
        self.lookups -= 1
        return await super().find(public_id)


async def test_two_hundred_callers_with_one_key_make_one_look_up(clock: Clock) -> None:
    store = SlowAccounts()
    ring = KeyRing(store, clock.wall, clock.monotonic)
    key, text = new_key()
    await store.add(key)
    waiting = [asyncio.create_task(ring.resolve(text)) for _ in range(200)]
    await asyncio.sleep(0)
    store.gate.set()
    assert len({id(account) for account in await asyncio.gather(*waiting)}) == 1
    assert store.lookups == 1


async def test_while_one_looks_again_the_others_go_on(clock: Clock) -> None:
    store = SlowAccounts()
    ring = KeyRing(store, clock.wall, clock.monotonic)
    key, text = new_key()
    await store.add(key)
    store.gate.set()
    account = await ring.resolve(text)
    store.gate.clear()
    clock.turn(FRESH_S)
    slow = asyncio.create_task(ring.resolve(text))
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        assert await ring.resolve(text) is account
    assert not slow.done()
    clock.turn(CACHE_S - FRESH_S)
    late = asyncio.create_task(ring.resolve(text))
    await asyncio.sleep(0)
    assert not late.done(), "after 4 s nobody is believed without a look-up"
    store.gate.set()
    assert await slow is account
    assert await late is account


async def test_who_leaves_while_he_looks_up_takes_nobody_along(clock: Clock) -> None:
    store = SlowAccounts()
    ring = KeyRing(store, clock.wall, clock.monotonic)
    key, text = new_key()
    await store.add(key)
    first = asyncio.create_task(ring.resolve(text))
    await asyncio.sleep(0)
    second = asyncio.create_task(ring.resolve(text))
    await asyncio.sleep(0)
    first.cancel()
    store.gate.set()
    assert (await second).key_id == key.public_id
    assert first.cancelled()
    assert len(ring._cache) == 1


async def test_a_broken_store_is_not_a_wrong_key(ring: KeyRing, store: FakeAccounts, clock: Clock) -> None:
    key, text = new_key()
    await store.add(key)
    store.broken = True
    with pytest.raises(Unavailable):
        await ring.resolve(text)
    assert await ring.check() is not None
    store.broken = False
    assert await ring.check() is None
    await ring.resolve(text)
    store.broken = True
    clock.turn(CACHE_S)
    with pytest.raises(Unavailable):
        await ring.resolve(text)


async def test_known_keys_may_outlive_an_outage_of_the_store(store: FakeAccounts, clock: Clock) -> None:
    ring = KeyRing(store, clock.wall, clock.monotonic, outage_s=300)
    key, text = new_key()
    await store.add(key)
    account = await ring.resolve(text)
    store.broken = True
    clock.turn(CACHE_S + 100)
    lookups = store.lookups
    for _ in range(10):
        assert await ring.resolve(text) is account
    assert store.lookups == lookups + 1, "a store that is down is not asked by every request"
    clock.turn(200)
    with pytest.raises(Unavailable):
        await ring.resolve(text)


class HangingAccounts(FakeAccounts):
    """A store that does not answer until it is told to, and then says that it is away."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()
        self.answers.set()

    async def find(self, public_id: str) -> KeyGrant | None:
        await self.answers.wait()
        return await super().find(public_id)


async def test_nobody_waits_for_a_store_that_hangs_but_the_one_who_asks_it(clock: Clock) -> None:
    store = HangingAccounts()
    ring = KeyRing(store, clock.wall, clock.monotonic, outage_s=300)
    key, text = new_key()
    await store.add(key)
    account = await ring.resolve(text)
    store.broken = True
    clock.turn(CACHE_S + 1)
    assert await ring.resolve(text) is account
    clock.turn(2)
    store.answers.clear()
    asking = asyncio.create_task(ring.resolve(text))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(ring.resolve(text), 5) is account
    assert not asking.done()
    store.answers.set()
    assert await asking is account


async def test_a_gateway_is_ready_for_as_long_as_it_believes_keys_without_a_store(
    store: FakeAccounts, clock: Clock
) -> None:
    ring = KeyRing(store, clock.wall, clock.monotonic, outage_s=300)
    store.broken = True
    assert await ring.check() is not None, "it never had a store"
    store.broken = False
    assert await ring.check() is None
    store.broken = True
    clock.turn(299)
    assert await ring.check() is None
    clock.turn(2)
    assert await ring.check() is not None


def test_keys_are_different_and_parse_to_their_parts() -> None:
    made = [new_key_text() for _ in range(50)]
    assert len({text for _, _, text in made}) == 50
    assert all(parse_key_text(text) == (public_id, secret) for public_id, secret, text in made)
    assert all(len(secret) >= 43 for _, secret, _ in made)


def test_a_key_does_not_show_its_hash() -> None:
    key, _ = new_key()
    assert isinstance(key, ApiKey)
    assert key.secret_hash not in repr(replace(key, name="x"))
