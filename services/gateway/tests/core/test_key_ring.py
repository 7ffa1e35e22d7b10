"""Keys are found by their text, live ones only, and from memory for a few seconds."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from gateway.core.key_ring import CACHE_S, UNKNOWN_KEYS, InvalidApiKey, KeyRing
from gateway.core.keys import new_key_text, parse_key_text
from gateway_fakes import FakeKeyStore, new_key
from servicekit.errors import Unavailable


class Clock:
    """A clock that is turned by hand, on the wall and monotonic."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)

    def turn(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    def wall(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> FakeKeyStore:
    return FakeKeyStore()


@pytest.fixture
def ring(store: FakeKeyStore, clock: Clock) -> KeyRing:
    return KeyRing(store, clock.wall, clock.monotonic)


async def test_a_key_is_looked_up_once_in_a_while(ring: KeyRing, store: FakeKeyStore, clock: Clock) -> None:
    key, text = new_key()
    await store.add(key)
    for _ in range(3):
        assert await ring.resolve(text) == key
    assert store.lookups == 1
    clock.turn(CACHE_S)
    await ring.resolve(text)
    assert store.lookups == 2


async def test_a_revocation_is_live_within_five_seconds(ring: KeyRing, store: FakeKeyStore, clock: Clock) -> None:
    key, text = new_key()
    await store.add(key)
    await ring.resolve(text)
    await store.revoke(key.public_id, clock.wall())
    clock.turn(5)
    with pytest.raises(InvalidApiKey):
        await ring.resolve(text)


async def test_a_key_expires_on_time_though_remembered(ring: KeyRing, store: FakeKeyStore, clock: Clock) -> None:
    key, text = new_key(expires_at=clock.wall() + timedelta(seconds=1))
    await store.add(key)
    await ring.resolve(text)
    clock.turn(1)
    with pytest.raises(InvalidApiKey):
        await ring.resolve(text)


async def test_a_wrong_secret_opens_nothing(ring: KeyRing, store: FakeKeyStore) -> None:
    key, text = new_key()
    await store.add(key)
    for wrong in (text + "x", text[:-1], text.upper(), f"pst_{key.public_id}_", f"pst_{key.public_id}", "pst__x"):
        with pytest.raises(InvalidApiKey):
            await ring.resolve(wrong)


async def test_unknown_keys_are_remembered_within_bounds(ring: KeyRing, store: FakeKeyStore) -> None:
    for _ in range(2):
        with pytest.raises(InvalidApiKey):
            await ring.resolve("pst_0123456789abcdef_x")
    assert store.lookups == 1
    for position in range(UNKNOWN_KEYS + 5):
        with pytest.raises(InvalidApiKey):
            await ring.resolve(f"nonsense {position}")
    assert len(ring._unknown) == UNKNOWN_KEYS


@pytest.mark.parametrize("text", [None, "", "x" * 257, "\ud800"])
async def test_what_cannot_be_a_key_is_not_looked_up(ring: KeyRing, store: FakeKeyStore, text: str | None) -> None:
    with pytest.raises(InvalidApiKey):
        await ring.resolve(text)
    assert store.lookups == 0


async def test_a_broken_store_is_not_a_wrong_key(ring: KeyRing, store: FakeKeyStore) -> None:
    store.broken = True
    with pytest.raises(Unavailable):
        await ring.resolve(new_key()[1])
    assert await ring.check() is not None
    store.broken = False
    assert await ring.check() is None


def test_keys_are_different_and_parse_to_their_parts() -> None:
    made = [new_key_text() for _ in range(50)]
    assert len({text for _, _, text in made}) == 50
    assert all(parse_key_text(text) == (public_id, secret) for public_id, secret, text in made)
    assert all(len(secret) >= 43 for _, secret, _ in made)


def test_a_key_does_not_show_its_hash() -> None:
    key, _ = new_key()
    assert key.secret_hash not in repr(replace(key, name="x"))
