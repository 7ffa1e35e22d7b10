"""A model's name leads to the catalogue or to a pipeline."""

import pytest
from gateway.core.scopes import ALL_SCOPES, MissingScope, internal, require
from gateway.core.targets import CatalogueModel, Pipeline, check_turns, target_of
from servicekit.errors import InvalidInput


def test_targets() -> None:
    assert target_of("org/writer") == CatalogueModel("org/writer")
    assert target_of("rag:docs") == Pipeline("docs")
    assert target_of("ragged") == CatalogueModel("ragged")
    with pytest.raises(InvalidInput):
        target_of("")


@pytest.mark.parametrize(
    ("roles", "field"),
    [([], "messages"), (["user", "tool"], "messages[1].role"), (["user", "assistant"], "messages[1].role")],
)
def test_turns_that_lead_nowhere(roles: list[str], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_turns(roles)
    assert caught.value.field == field


def test_scopes_inside_cover_what_serving_needs_and_no_more() -> None:
    assert internal(frozenset({"ask"})) == {"ask", "models", "embeddings", "knowledge:read"}
    assert internal(frozenset({"features:read"})) == {"features:read"}
    assert "knowledge:write" not in internal(ALL_SCOPES - {"knowledge:write"})
    require(frozenset({"ask"}), "ask")
    with pytest.raises(MissingScope):
        require(frozenset({"ask"}), "models")
