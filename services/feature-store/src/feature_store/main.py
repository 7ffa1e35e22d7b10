"""Puts the feature store together and runs it."""

import time

from servicekit import entry
from servicekit.rpc import serve

from feature_store.adapters.catalogue_file import ONLINE_FILE
from feature_store.adapters.feast_repository import FeastRepository
from feature_store.adapters.sqlite_values import SqliteValues
from feature_store.api.servicer import feature_store_api
from feature_store.core.feature_reader import FeatureReader
from feature_store.core.feature_writer import FeatureWriter
from feature_store.core.read_plan import ReadPlans
from feature_store.settings import Settings


def now_us() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1_000


async def run(settings: Settings) -> None:
    """Serve until told to stop."""
    repository = FeastRepository(
        settings.repository, settings.state, settings.sample_tenant, settings.catalogue_check_s
    )
    await repository.load()
    async with SqliteValues(settings.state / ONLINE_FILE) as values:
        reader = FeatureReader(ReadPlans(repository.catalogue), values, now_us)
        writer = FeatureWriter(repository.catalogue, values, now_us)
        api = feature_store_api(repository.catalogue, reader, writer)
        await serve(settings, [api], background=[repository.watch])


def main() -> None:
    """Start the process."""
    entry.main("feature-store", Settings, run)


if __name__ == "__main__":
    main()
