"""Fakes of the feature store's ports, and the definitions its tests share."""

from collections.abc import Mapping, Sequence

from feature_store.core.catalogue import Catalogue, FeatureView, ScalarType
from feature_store.core.feature_reader import FeatureReader
from feature_store.core.feature_writer import FeatureWriter
from feature_store.core.ports import EntityKey, OnlineValues, StoredRow, StoredValue, ViewQuery
from feature_store.core.read_plan import ReadPlans

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND

PROFILE = FeatureView(
    "profile",
    "",
    {"user_id": ScalarType.STRING},
    {"city": ScalarType.STRING, "premium": ScalarType.BOOL, "visits": ScalarType.INT, "spend": ScalarType.DOUBLE},
    ttl_us=0,
)
STOCK = FeatureView(
    "stock",
    "",
    {"warehouse": ScalarType.INT, "item_id": ScalarType.STRING},
    {"count": ScalarType.INT},
    ttl_us=60 * SECOND,
)


def catalogue(*views: FeatureView, generation: str = "1") -> Catalogue:
    return Catalogue(generation, {view.name: view for view in views or (PROFILE, STOCK)})


class FakeClock:
    def __init__(self) -> None:
        self.now_us = NOW

    def __call__(self) -> int:
        return self.now_us

    def pass_s(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND)


class FakeOnlineValues:
    def __init__(self) -> None:
        self.stored: dict[tuple[str, str, EntityKey, str], StoredValue] = {}
        self.queries: list[ViewQuery] = []
        self.failure: Exception | None = None

    async def read(self, tenant: str, queries: Sequence[ViewQuery]) -> list[Sequence[Mapping[str, StoredValue]]]:
        self.queries += queries
        return [[self._row(tenant, query, key) for key in query.keys] for query in queries]

    def _row(self, tenant: str, query: ViewQuery, key: EntityKey) -> dict[str, StoredValue]:
        places = {feature: (tenant, query.view, key, feature) for feature in query.features}
        return {feature: self.stored[place] for feature, place in places.items() if place in self.stored}

    async def write(self, tenant: str, view: str, rows: Sequence[StoredRow]) -> list[bool]:
        if self.failure is not None:
            raise self.failure
        return [self._keep(tenant, view, row) for row in rows]

    def _keep(self, tenant: str, view: str, row: StoredRow) -> bool:
        kept = False
        for feature, value in row.values.items():
            place = (tenant, view, row.key, feature)
            if place not in self.stored or row.event_us >= self.stored[place][1]:
                self.stored[place] = (int(value) if isinstance(value, bool) else value, row.event_us)
                kept = True
        return kept


class Store:
    """Reader and writer over one fake of each port."""

    def __init__(self, values: OnlineValues | None = None) -> None:
        self.catalogue = catalogue()
        self.clock = FakeClock()
        self.fake = FakeOnlineValues()
        ports = values or self.fake
        self.reader = FeatureReader(ReadPlans(self.current), ports, self.clock)
        self.writer = FeatureWriter(self.current, ports, self.clock)

    def current(self) -> Catalogue:
        return self.catalogue
