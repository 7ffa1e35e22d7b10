"""A model's name leads to the catalogue or to a pipeline."""

import pytest
from gateway.core.scopes import ALL_SCOPES, MissingScope, internal, require
from gateway.core.targets import CatalogueModel, Pipeline, check_turns, target_of
from servicekit.errors import InvalidInput


def test_targets() -> None:
    assert target_of("org/writer") == CatalogueModel("org/writer")
    assert target_of("rag:docs") == Pipeline("docs")
    assert target_of("ragged") == CatalogueModel("ragged")
    for name in ("", "x" * 257):
        with pytest.raises(InvalidInput):
            target_of(name)


@pytest.mark.parametrize(
    ("roles", "pipeline", "field"),
    [
        ([], False, "messages"),
        ([], True, "messages"),
        (["user", "function"], False, "messages[1].role"),
        (["user", "assistant"], False, "messages[1].role"),
        (["user", "tool"], True, "messages[1].role"),
        (["user", "system"], True, "messages[1].role"),
    ],
)
def test_turns_that_lead_nowhere(roles: list[str], pipeline: bool, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_turns(roles, pipeline=pipeline)
    assert caught.value.field == field


@pytest.mark.parametrize("last", ["system", "developer", "user", "tool"])
def test_a_model_answers_whatever_is_no_answer(last: str) -> None:
    check_turns(["user", "assistant", last])
    with pytest.raises(InvalidInput) as caught:
        check_turns(["user", last, "assistant"])
    assert caught.value.field == "messages[2].role"


@pytest.mark.parametrize("last", ["system", "developer", "tool"])
def test_a_pipeline_answers_the_user_alone(last: str) -> None:
    check_turns(["developer", "user"], pipeline=True)
    with pytest.raises(InvalidInput) as caught:
        check_turns(["user", last], pipeline=True)
    assert caught.value.field == "messages[1].role"


def test_scopes_inside_cover_what_serving_needs_and_no_more() -> None:
    assert internal(frozenset({"ask"})) == {"ask", "models", "embeddings", "knowledge:read"}
    assert internal(frozenset({"features:read"})) == {"features:read"}
    assert "knowledge:write" not in internal(ALL_SCOPES - {"knowledge:write"})
    require(frozenset({"ask"}), "ask")
    with pytest.raises(MissingScope):
        require(frozenset({"ask"}), "models")
