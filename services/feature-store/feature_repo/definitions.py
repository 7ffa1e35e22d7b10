"""The sample definitions: what a shop knows about its users and its items."""

# ruff: noqa: INP001  Feast wants a plain folder

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, PushSource
from feast.types import Bool, Float64, Int64, String
from feast.value_type import ValueType

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="Somebody who buys")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="Something that is sold")


def pushed(view: str) -> PushSource:
    """Return the source of a view that is pushed online and kept as Parquet offline."""
    path = f"../../../.penstock/feature-store/offline/{view}.parquet"
    history = FileSource(name=f"{view}_history", path=path, timestamp_field="event_timestamp")
    return PushSource(name=f"{view}_push", batch_source=history)


user_profile = FeatureView(
    name="user_profile",
    description="What a user told us; changes seldom",
    entities=[user],
    ttl=timedelta(0),
    schema=[
        Field(name="country", dtype=String),
        Field(name="language", dtype=String),
        Field(name="is_premium", dtype=Bool),
        Field(name="favourite_category", dtype=String),
        Field(name="signup_year", dtype=Int64),
    ],
    source=pushed("user_profile"),
)

user_activity = FeatureView(
    name="user_activity",
    description="What a user did of late; out of date after a week",
    entities=[user],
    ttl=timedelta(days=7),
    schema=[
        Field(name="sessions_7d", dtype=Int64),
        Field(name="clicks_7d", dtype=Int64),
        Field(name="purchases_30d", dtype=Int64),
        Field(name="mean_basket_eur", dtype=Float64),
        Field(name="last_category", dtype=String),
    ],
    source=pushed("user_activity"),
)

item_stats = FeatureView(
    name="item_stats",
    description="How an item sells; out of date after two days",
    entities=[item],
    ttl=timedelta(days=2),
    schema=[
        Field(name="category", dtype=String),
        Field(name="price_eur", dtype=Float64),
        Field(name="in_stock", dtype=Bool),
        Field(name="views_24h", dtype=Int64),
        Field(name="click_rate_24h", dtype=Float64),
    ],
    source=pushed("item_stats"),
)
