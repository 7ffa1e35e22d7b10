from pathlib import Path

import pytest
from feature_store.adapters import catalogue_file
from feature_store.adapters.catalogue_file import Sources
from feature_store_fakes import PROFILE, STOCK

SOURCES = Sources("repository digest", "registry digest")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    catalogue_file.write(tmp_path, SOURCES, [STOCK, PROFILE])
    found = catalogue_file.read(tmp_path)
    assert found is not None
    assert found[0] == SOURCES
    assert found[1].views == {"profile": PROFILE, "stock": STOCK}


def test_the_generation_changes_with_the_views_and_not_with_their_sources(tmp_path: Path) -> None:
    generations = []
    for sources, views in (SOURCES, [PROFILE]), (Sources("a", "b"), [PROFILE]), (SOURCES, [STOCK]):
        catalogue_file.write(tmp_path, sources, views)
        found = catalogue_file.read(tmp_path)
        assert found is not None
        generations.append(found[1].generation)
    assert generations[0] == generations[1] != generations[2]


@pytest.mark.parametrize("content", [None, "", '{"format": 1, "vie', '{"format": 0}'])
def test_a_file_that_is_absent_broken_or_of_another_format_counts_as_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "catalogue.json").write_text(content)
    assert catalogue_file.read(tmp_path) is None


def test_the_digest_sees_every_file_that_counts(tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    digests = {catalogue_file.digest_of_repository(tmp_path)}
    for name in ("definitions.py", "feature_store.yaml", "sample/v.csv"):
        (tmp_path / name).write_text("x")
        digests.add(catalogue_file.digest_of_repository(tmp_path))
    assert len(digests) == 4
    (tmp_path / "notes.txt").write_text("x")
    assert catalogue_file.digest_of_repository(tmp_path) in digests
