import math
from collections.abc import AsyncIterator

import pytest
from feature_store.api.servicer import feature_store_api
from feature_store_fakes import NOW, SECOND, Store
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.feature_store.v1 import feature_store_pb2_grpc as pb_grpc
from servicekit.errors import Forbidden, InvalidInput, NotFound, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import caller, serving

T = Timestamp(seconds=NOW // SECOND, nanos=5_000)
USER = pb.Entity(keys={"user_id": pb.Scalar(string_value="u1")})
VALUES = {
    "city": pb.Scalar(string_value="Kyiv"),
    "premium": pb.Scalar(bool_value=False),
    "visits": pb.Scalar(int_value=-(2**63)),
    "spend": pb.Scalar(double_value=0.1),
}


class Client:
    def __init__(self, store: Store, channel: Channel) -> None:
        self.store = store
        self._channel = channel
        self._stub = pb_grpc.FeatureStoreServiceStub(channel.grpc)

    async def get(self, names: list[str], *entities: pb.Entity) -> pb.GetFeaturesResponse:
        return await self._channel.call(
            self._stub.GetFeatures, pb.GetFeaturesRequest(features=names, entities=entities), timeout_s=10
        )

    async def push(self, view: str, *rows: pb.FeatureRow) -> pb.PushFeaturesResponse:
        return await self._channel.call(
            self._stub.PushFeatures, pb.PushFeaturesRequest(feature_view=view, rows=rows), timeout_s=10
        )

    async def views(self) -> pb.ListFeatureViewsResponse:
        return await self._channel.call(self._stub.ListFeatureViews, pb.ListFeatureViewsRequest(), timeout_s=10)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    store = Store()
    async with (
        serving(feature_store_api(store.current, store.reader, store.writer)) as address,
        Channel(address) as channel,
    ):
        yield Client(store, channel)


async def test_what_is_pushed_comes_back_without_loss(client: Client) -> None:
    with caller("acme"):
        pushed = await client.push("profile", pb.FeatureRow(entity=USER, values=VALUES, event_time=T))
        client.store.clock.pass_s(1.5)
        response = await client.get([f"profile:{name}" for name in VALUES], USER)
    assert pushed == pb.PushFeaturesResponse(accepted=1)
    age = Duration(seconds=1, nanos=499_995_000)
    assert response == pb.GetFeaturesResponse(
        entities=[
            pb.EntityFeatures(
                entity=USER,
                values=[
                    pb.FeatureValue(
                        name=f"profile:{name}", status=pb.FEATURE_STATUS_PRESENT, value=value, event_time=T, age=age
                    )
                    for name, value in VALUES.items()
                ],
            )
        ]
    )


async def test_missing_has_neither_value_nor_time_and_age_zero_is_said(client: Client) -> None:
    now = Timestamp(seconds=NOW // SECOND)
    with caller("acme"):
        await client.push("profile", pb.FeatureRow(entity=USER, values={"visits": VALUES["visits"]}, event_time=now))
        visits, city = (await client.get(["profile:visits", "profile:city"], USER)).entities[0].values
    assert visits.HasField("age")
    assert city == pb.FeatureValue(name="profile:city", status=pb.FEATURE_STATUS_MISSING)


async def test_stale_is_said_and_the_value_given(client: Client) -> None:
    place = pb.Entity(keys={"warehouse": pb.Scalar(int_value=1), "item_id": pb.Scalar(string_value="i")})
    row = pb.FeatureRow(entity=place, values={"count": pb.Scalar(int_value=4)}, event_time=T)
    with caller("acme"):
        await client.push("stock", row)
        client.store.clock.pass_s(61)
        value = (await client.get(["stock:count"], place)).entities[0].values[0]
    assert (value.status, value.value.int_value) == (pb.FEATURE_STATUS_STALE, 4)


async def test_another_tenant_sees_nothing(client: Client) -> None:
    with caller("acme"):
        await client.push("profile", pb.FeatureRow(entity=USER, values=VALUES, event_time=T))
    with caller("umbrella"):
        value = (await client.get(["profile:city"], USER)).entities[0].values[0]
    assert value.status == pb.FEATURE_STATUS_MISSING


async def test_rejects_row_by_row_with_stable_reasons(client: Client) -> None:
    rows = [
        pb.FeatureRow(entity=USER, values=VALUES),
        pb.FeatureRow(entity=USER, values=VALUES, event_time=T),
        pb.FeatureRow(entity=USER, values={"spend": pb.Scalar(double_value=math.inf)}, event_time=T),
        pb.FeatureRow(entity=USER, values={"spend": pb.Scalar()}, event_time=T),
        pb.FeatureRow(entity=USER, values=VALUES, event_time=Timestamp(seconds=T.seconds + 400)),
        pb.FeatureRow(entity=USER, values=VALUES, event_time=Timestamp(seconds=T.seconds - 400)),
        pb.FeatureRow(entity=USER, values=VALUES, event_time=Timestamp(seconds=-1)),
        pb.FeatureRow(values=VALUES, event_time=T),
    ]
    with caller("acme"):
        response = await client.push("profile", *rows)
    assert response.accepted == 1
    assert [(row.index, row.reason) for row in response.rejected] == [
        (0, "missing_event_time"), (2, "wrong_type"), (3, "no_value"), (4, "future_event_time"), (5, "late_event"),
        (6, "missing_event_time"), (7, "missing_key"),
    ]  # fmt: skip
    assert all(row.message for row in response.rejected)


async def test_bad_requests_name_the_field(client: Client) -> None:
    with caller("acme"):
        with pytest.raises(NotFound, match="shoes") as caught:
            await client.get(["profile:city", "shoes:size"], USER)
        assert (caught.value.reason, caught.value.field) == ("unknown_view", "features[1]")
        with pytest.raises(InvalidInput) as wrong_key:
            await client.get(["profile:city"], USER, pb.Entity())
        assert wrong_key.value.field == "entities[1].keys.user_id"
        with pytest.raises(InvalidInput):
            await client.push("profile")
        with pytest.raises(NotFound, match="shoes"):
            await client.push("shoes", pb.FeatureRow())


async def test_a_full_disk_is_unavailable_with_its_reason(client: Client) -> None:
    client.store.fake.failure = Unavailable("no room", reason="storage_full")
    with caller("acme"), pytest.raises(Unavailable) as caught:
        await client.push("profile", pb.FeatureRow(entity=USER, values=VALUES, event_time=T))
    assert caught.value.reason == "storage_full"


async def test_reading_and_writing_are_separate_scopes(client: Client) -> None:
    with caller("acme", scopes={"features:read"}):
        await client.get(["profile:city"], USER)
        with pytest.raises(Forbidden):
            await client.push("profile", pb.FeatureRow(entity=USER, values=VALUES, event_time=T))
    with caller("acme", scopes={"features:write"}):
        with pytest.raises(Forbidden):
            await client.get(["profile:city"], USER)
        with pytest.raises(Forbidden):
            await client.views()


async def test_lists_the_views_with_their_schema(client: Client) -> None:
    with caller("acme"):
        profile, stock = (await client.views()).feature_views
    assert (profile.name, stock.name) == ("profile", "stock")
    assert (profile.ttl.seconds, stock.ttl.seconds) == (0, 60)
    assert profile.HasField("ttl")
    assert {field.name: field.type for field in stock.entity_keys} == {
        "warehouse": pb.SCALAR_TYPE_INT, "item_id": pb.SCALAR_TYPE_STRING,
    }  # fmt: skip
    assert [field.type for field in profile.features] == [
        pb.SCALAR_TYPE_STRING, pb.SCALAR_TYPE_BOOL, pb.SCALAR_TYPE_INT, pb.SCALAR_TYPE_DOUBLE,
    ]  # fmt: skip


async def test_the_largest_request_is_answered(client: Client) -> None:
    users = [pb.Entity(keys={"user_id": pb.Scalar(string_value=f"u{number}")}) for number in range(1_000)]
    with caller("acme"):
        response = await client.get(["profile:city"] * 200, *users)
    assert [entity.entity for entity in response.entities] == users
    assert len(response.entities[999].values) == 200
