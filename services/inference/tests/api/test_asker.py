"""For whom a call is comes from its identity."""

import pytest
from inference.api.asker import current_asker
from servicekit.errors import Unauthenticated
from servicekit.identity import Identity, acting_as
from servicekit.load.priority import Priority


@pytest.mark.parametrize(
    ("said", "priority"),
    [
        ("interactive", Priority.INTERACTIVE),
        ("standard", Priority.STANDARD),
        ("batch", Priority.BATCH),
        ("of the utmost importance", Priority.STANDARD),
        ("", Priority.STANDARD),
    ],
)
def test_tenant_and_priority_are_those_of_the_identity(said: str, priority: Priority) -> None:
    with acting_as(Identity("acme", "tester", "key-1", frozenset(), priority=said)):
        assert current_asker() == ("acme", priority)


def test_there_is_none_outside_of_a_call() -> None:
    with pytest.raises(Unauthenticated):
        current_asker()
