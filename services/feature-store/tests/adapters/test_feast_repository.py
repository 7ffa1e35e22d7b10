"""The real Feast on the real repository; every Feast process costs about 8 s, so the tests share what they can."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from feature_store.adapters.feast_repository import FeastRepository, RepositoryRejected
from feature_store.adapters.sqlite_values import SqliteValues
from feature_store.core.catalogue import ScalarType
from feature_store.core.feature_reader import FeatureReader, Status
from feature_store.core.feature_writer import FeatureWriter, Row
from feature_store.core.read_plan import ReadPlans
from feature_store.main import now_us
from prometheus_client import REGISTRY
from servicekit.testing import eventually

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "feature_repo"
NAMES = ["user_profile:country", "user_profile:is_premium", "user_activity:mean_basket_eur", "user_activity:clicks_7d"]
ASK_FEAST = """
import json, sys
from pathlib import Path
import pandas as pd
from feast import FeatureStore
from feature_store.adapters.feast_apply import load_config
store = FeatureStore(config=load_config(Path(sys.argv[1]), Path(sys.argv[2]), "demo"))
def ask():
    users = [{"user_id": user} for user in ("u1", "u2", "nobody", "ours")]
    return store.get_online_features(json.loads(sys.argv[3]), users, full_feature_names=True).to_dict()
def push(hours, clicks):
    row = {"user_id": ["u1"], "sessions_7d": [1], "clicks_7d": [clicks], "purchases_30d": [0], "mean_basket_eur": [1.0],
           "last_category": ["x"], "event_timestamp": [pd.Timestamp.now(tz="UTC") - pd.Timedelta(hours=hours)]}
    store.push("user_activity_push", pd.DataFrame(row))
before = ask(); push(500, -1); late = ask(); push(0, 1_000); newer = ask()
print("ANSWER" + json.dumps([before, late, newer]))
"""


class Site:
    """A copy of the Feast repository, placed as in the project, with a state folder of its own."""

    def __init__(self, root: Path) -> None:
        self.repository = root / "services" / "feature-store" / "feature_repo"
        self.state = root / ".penstock" / "feature-store"
        shutil.copytree(SOURCE, self.repository, ignore=shutil.ignore_patterns("__pycache__"))

    def open(self, check_s: float = 60) -> FeastRepository:
        return FeastRepository(self.repository, self.state, "demo", check_s)

    def edit(self, old: str, new: str) -> None:
        file = self.repository / "definitions.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


def refreshes(outcome: str) -> float:
    name = "penstock_feature_store_catalogue_refreshes_total"
    return REGISTRY.get_sample_value(name, {"outcome": outcome}) or 0.0


async def run(*command: str | Path) -> str:
    child = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await child.communicate())[0].decode()
    assert child.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(tmp_path_factory.mktemp("project"))
    asyncio.run(made.open().load())
    return made


@pytest.fixture
async def values(site: Site) -> AsyncIterator[SqliteValues]:
    async with SqliteValues(site.state / "online.db") as opened:
        yield opened


async def test_the_catalogue_is_what_feast_defines(site: Site) -> None:
    repository = site.open()
    await repository.load()
    views = repository.catalogue().views
    assert set(views) == {"user_profile", "user_activity", "item_stats"}
    assert views["item_stats"].entity_keys == {"item_id": ScalarType.STRING}
    assert views["item_stats"].features["in_stock"] is ScalarType.BOOL
    assert (views["user_profile"].ttl_us, views["item_stats"].ttl_us) == (0, 2 * 86_400 * 1_000_000)


async def test_feast_does_not_run_when_nothing_changed(site: Site) -> None:
    before = (site.state / "catalogue.json").stat().st_mtime_ns
    await site.open().load()
    assert (site.state / "catalogue.json").stat().st_mtime_ns == before


async def test_the_sample_tenant_has_rows_of_every_status_and_others_have_none(
    site: Site, values: SqliteValues
) -> None:
    repository = site.open()
    await repository.load()
    reader = FeatureReader(ReadPlans(repository.catalogue), values, now_us)
    names = ["user_profile:country", "user_activity:clicks_7d", "user_profile:favourite_category"]
    demo = await reader.read("demo", names, [{"user_id": "u4"}])
    other = await reader.read("acme", names, [{"user_id": "u4"}])
    assert [value.status for value in demo.entities[0]] == [Status.PRESENT, Status.STALE, Status.MISSING]
    assert {value.status for value in other.entities[0]} == {Status.MISSING}


async def test_feast_reads_and_writes_the_same_values_by_the_same_rule(site: Site, values: SqliteValues) -> None:
    repository = site.open()
    await repository.load()
    reader = FeatureReader(ReadPlans(repository.catalogue), values, now_us)
    writer = FeatureWriter(repository.catalogue, values, now_us)
    ours = Row({"user_id": "ours"}, {"country": "UA", "is_premium": True}, now_us())
    assert (await writer.push("demo", "user_profile", [ours])).accepted == 1
    users = [{"user_id": user} for user in ("u1", "u2", "nobody", "ours")]
    read = await reader.read("demo", NAMES, users)
    output = await run(sys.executable, "-c", ASK_FEAST, site.repository, site.state, json.dumps(NAMES))
    before, late, newer = json.loads(output.rpartition("ANSWER")[2])

    def column(answer: dict[str, Any], name: str) -> list[Any]:
        return list(answer[name.replace(":", "__")])

    for at, name in enumerate(NAMES):
        assert column(before, name) == [entity[at].value for entity in read.entities]
    assert late == before
    assert column(newer, "user_activity:clicks_7d")[0] == 1_000
    after = await reader.read("demo", ["user_activity:clicks_7d"], [{"user_id": "u1"}])
    assert after.entities[0][0].value == 1_000


async def test_definitions_that_feast_rejects_leave_the_last_good_ones_in_force(tmp_path: Path, site: Site) -> None:
    broken = Site(tmp_path)
    shutil.copytree(site.state, broken.state)
    repository = broken.open(check_s=0.05)
    await repository.load()
    good = repository.catalogue()
    before = refreshes("failed")
    broken.edit('name="clicks_7d", dtype=Int64', 'name="clicks_7d", dtype=Int99')
    watching = asyncio.create_task(repository.watch())
    await eventually(lambda: refreshes("failed") == before + 1, timeout_s=60)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert repository.catalogue() is good
    with pytest.raises(RepositoryRejected, match="Int99"):
        await repository.load()


async def test_what_the_feast_command_applies_is_served_without_a_restart(tmp_path: Path, site: Site) -> None:
    changed = Site(tmp_path)
    shutil.copytree(site.state, changed.state)
    changed.edit('Field(name="clicks_7d"', 'Field(name="taps_7d"')
    text = (changed.repository / "definitions.py").read_text()
    (changed.repository / "definitions.py").write_text(text[: text.index("item_stats = ")])
    await run(Path(sys.executable).with_name("feast"), "-c", changed.repository, "apply")
    repository = changed.open()
    await repository.load()
    views = repository.catalogue().views
    assert set(views) == {"user_profile", "user_activity"}
    assert "taps_7d" in views["user_activity"].features
    async with SqliteValues(changed.state / "online.db") as values:
        assert not values.writer.has_rows("demo", "item_stats")
        assert values.writer.has_rows("demo", "user_activity")


async def test_the_serving_process_does_not_import_feast() -> None:
    heavy = "[name for name in ('feast', 'pandas', 'numpy', 'pyarrow') if name in sys.modules]"
    assert (await run(sys.executable, "-c", f"import sys, feature_store.main; print({heavy})")).strip() == "[]"
