import pytest
from feature_store.core.catalogue import ScalarType
from feature_store.core.feature_reader import MISSING, FeatureValue, Status, WrongEntityCount, WrongEntityKey
from feature_store.core.feature_writer import Row
from feature_store_fakes import NOW, PROFILE, SECOND, Store, catalogue

USER = {"user_id": "u1"}
PLACE = {"warehouse": 1, "item_id": "i1"}


async def test_gives_each_value_its_time_age_and_type() -> None:
    store = Store()
    values = {"city": "Kyiv", "premium": True, "visits": 3, "spend": 1.5}
    await store.writer.push("acme", "profile", [Row(USER, values, NOW)])
    store.clock.pass_s(2)
    reading = await store.reader.read("acme", [f"profile:{name}" for name in values], [USER])
    assert reading.entities == [[FeatureValue(Status.PRESENT, value, NOW, 2 * SECOND) for value in values.values()]]
    assert [type(value.value) for value in reading.entities[0]] == [str, bool, int, float]


async def test_a_value_is_stale_only_when_older_than_its_ttl_and_is_given_all_the_same() -> None:
    store = Store()
    await store.writer.push("acme", "stock", [Row(PLACE, {"count": 7}, NOW)])
    store.clock.pass_s(60)
    at_ttl = await store.reader.read("acme", ["stock:count"], [PLACE])
    store.clock.pass_s(0.000001)
    after = await store.reader.read("acme", ["stock:count"], [PLACE])
    assert at_ttl.entities[0][0].status is Status.PRESENT
    assert after.entities[0][0] == FeatureValue(Status.STALE, 7, NOW, 60 * SECOND + 1)


async def test_without_ttl_a_value_never_gets_stale() -> None:
    store = Store()
    await store.writer.push("acme", "profile", [Row(USER, {"visits": 3}, NOW)])
    store.clock.pass_s(10 * 365 * 86_400)
    assert (await store.reader.read("acme", ["profile:visits"], [USER])).entities[0][0].status is Status.PRESENT


async def test_an_event_of_the_near_future_has_no_negative_age() -> None:
    store = Store()
    await store.writer.push("acme", "profile", [Row(USER, {"visits": 3}, NOW + 60 * SECOND)])
    assert (await store.reader.read("acme", ["profile:visits"], [USER])).entities[0][0].age_us == 0


async def test_what_was_never_pushed_pushed_as_null_or_is_another_tenants_is_missing() -> None:
    store = Store()
    await store.writer.push("acme", "profile", [Row(USER, {"city": None, "visits": 3}, NOW)])
    names = ["profile:city", "profile:spend", "profile:visits"]
    own = await store.reader.read("acme", names, [USER, {"user_id": "u2"}])
    other = await store.reader.read("umbrella", names, [USER])
    assert [value.status for value in own.entities[0]] == [Status.MISSING, Status.MISSING, Status.PRESENT]
    assert own.entities[1] == [MISSING] * 3
    assert other.entities[0] == [MISSING] * 3


async def test_a_null_takes_the_place_of_an_older_value() -> None:
    store = Store()
    await store.writer.push("acme", "profile", [Row(USER, {"city": "Kyiv"}, NOW)])
    await store.writer.push("acme", "profile", [Row(USER, {"city": None, "visits": 1}, NOW + 1)])
    assert (await store.reader.read("acme", ["profile:city"], [USER])).entities[0] == [MISSING]


async def test_a_value_of_a_type_no_longer_defined_is_missing() -> None:
    store = Store()
    await store.writer.push("acme", "profile", [Row(USER, {"visits": 3}, NOW)])
    changed = type(PROFILE)("profile", "", PROFILE.entity_keys, {"visits": ScalarType.STRING}, 0)
    store.catalogue = catalogue(changed, generation="2")
    assert (await store.reader.read("acme", ["profile:visits"], [USER])).entities[0] == [MISSING]


async def test_one_read_answers_views_of_different_entities_in_the_order_asked() -> None:
    store = Store()
    await store.writer.push("acme", "profile", [Row(USER, {"city": "Kyiv", "visits": 3}, NOW)])
    await store.writer.push("acme", "stock", [Row(PLACE, {"count": 7}, NOW)])
    reading = await store.reader.read("acme", ["profile:visits", "stock:count", "profile:city"], [USER | PLACE])
    assert [value.value for value in reading.entities[0]] == [3, 7, "Kyiv"]
    assert len(store.fake.queries) == 2


async def test_many_entities_are_read_in_parts_and_stay_in_order() -> None:
    store = Store()
    users = [{"user_id": f"u{number}"} for number in range(1_000)]
    rows = [Row(user, {"visits": number}, NOW) for number, user in enumerate(users)]
    await store.writer.push("acme", "profile", rows)
    reading = await store.reader.read("acme", ["profile:visits"] * 20, users)
    assert [values[19].value for values in reading.entities] == list(range(1_000))
    assert len(store.fake.queries) == 10


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({}, "entities[1].keys.user_id"),
        ({"user_id": None}, "entities[1].keys.user_id"),
        ({"user_id": 7}, "entities[1].keys.user_id"),
        ({"user_id": "u1", "item_id": "i1"}, "entities[1].keys.item_id"),
    ],
)
async def test_names_the_key_that_is_missing_wrong_or_too_many(keys: dict[str, str], field: str) -> None:
    with pytest.raises(WrongEntityKey) as caught:
        await Store().reader.read("acme", ["profile:city"], [USER, keys])
    assert caught.value.field == field


async def test_true_is_not_the_integer_one_as_a_key() -> None:
    with pytest.raises(WrongEntityKey):
        await Store().reader.read("acme", ["stock:count"], [{"warehouse": True, "item_id": "i1"}])


@pytest.mark.parametrize("count", [0, 1_001])
async def test_refuses_no_and_too_many_entities(count: int) -> None:
    with pytest.raises(WrongEntityCount):
        await Store().reader.read("acme", ["profile:city"], [USER] * count)
