"""The list of models: fetched, kept while inference is away, and its age."""

from collections.abc import Sequence

import pytest
from gateway.core.models import ModelCard, Models, Task
from servicekit.errors import Unavailable

ONE = ModelCard("one", Task.GENERATE)


class FakeInference:
    def __init__(self, *cards: ModelCard) -> None:
        self.cards: Sequence[ModelCard] = cards
        self.away = False

    async def fetch(self) -> Sequence[ModelCard]:
        if self.away:
            raise Unavailable("inference is away")
        return list(self.cards)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_before_the_first_list_nothing_can_be_routed() -> None:
    inference = FakeInference(ONE)
    inference.away = True
    models = Models(inference.fetch, Clock())
    assert not await models.refresh()
    assert not models.known
    assert await models.check() == "the models are not known yet"
    with pytest.raises(Unavailable) as caught:
        _ = models.catalogue
    assert caught.value.reason == "catalogue_unknown"
    assert caught.value.retry_after_s == 2


async def test_the_last_list_holds_while_inference_is_away_and_its_age_grows() -> None:
    inference, clock = FakeInference(ONE), Clock()
    models = Models(inference.fetch, clock)
    assert models.age_s() == float("inf")
    assert await models.refresh()
    inference.away, clock.now_s = True, 107.0
    assert not await models.refresh()
    assert models.catalogue.cards == {"one": ONE}
    assert models.age_s() == 7
    assert await models.check() is None
    inference.away = False
    assert await models.refresh()
    assert models.age_s() == 0


async def test_the_same_list_is_the_same_object_and_a_changed_price_another_one() -> None:
    inference = FakeInference(ONE)
    models = Models(inference.fetch, Clock())
    await models.refresh()
    first = models.catalogue
    await models.refresh()
    assert models.catalogue is first
    inference.cards = [ModelCard("one", Task.GENERATE, context_tokens=5)]
    await models.refresh()
    assert models.catalogue is not first
    assert models.catalogue.cards["one"].context_tokens == 5


async def test_a_list_cannot_be_changed_by_who_reads_it() -> None:
    models = Models(FakeInference(ONE).fetch, Clock())
    await models.refresh()
    with pytest.raises(TypeError):
        models.catalogue.cards["two"] = ONE  # type: ignore[index]
