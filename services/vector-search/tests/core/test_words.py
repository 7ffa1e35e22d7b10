"""Text to terms."""

import pytest
from vector_search.core.words import terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Foxes' dens", ["foxe", "den"]),
        ("cities and a CITY", ["city", "city"]),
        ("glass bus gas", ["glass", "bus", "gas"]),
        ("Straße ﬁne 2,014", ["straße", "fine", "2", "014"]),
        ("", []),
        ("x" * 100, ["x" * 64]),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected
