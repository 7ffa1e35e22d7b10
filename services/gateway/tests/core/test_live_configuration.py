"""The configuration in force: swapped as a whole, kept when the next one is wrong, reported either way."""

from gateway.core.configuration import Configuration, LedgerPolicy, LimitsPolicy
from gateway.core.live_configuration import BadConfiguration, LiveConfiguration
from gateway.core.models import Catalogue, ModelCard, Task
from gateway.core.routes import Route
from servicekit.errors import Unavailable


def routed(candidate: str, digest: str) -> Configuration:
    return Configuration(routes={"r": Route("r", (candidate,))}, digest=digest)


ONE, TWO = routed("one", "1"), routed("two", "2")


class Bench:
    """A live configuration with everything around it in the test's hands."""

    def __init__(self, first: Configuration = ONE, *models: str) -> None:
        self.news: list[Configuration | BadConfiguration | None] = []
        self.models(*(models or ("one", "two")))
        self.database_down = False
        self.applied: list[str] = []
        self.now_s = 1_000.0
        self.live = LiveConfiguration(first, self.read, lambda: self.catalogue, self.apply, lambda: self.now_s)

    def models(self, *names: str) -> None:
        self.catalogue: Catalogue | None = Catalogue.of(ModelCard(name, Task.GENERATE) for name in names)

    async def read(self) -> Configuration | None:
        news = self.news.pop(0) if self.news else None
        if isinstance(news, BadConfiguration):
            raise news
        return news

    async def apply(self, configuration: Configuration) -> None:
        if self.database_down:
            raise Unavailable("the database is away")
        self.applied.append(configuration.digest)

    async def step(self, *news: Configuration | BadConfiguration | None) -> tuple[str, ...]:
        self.news += news
        await self.live.step()
        return self.live.report.problems


async def test_the_first_one_is_applied_once() -> None:
    bench = Bench()
    assert bench.live.current is ONE
    for _ in range(3):
        assert await bench.step() == ()
    assert bench.applied == ["1"]


async def test_a_change_is_applied_and_then_in_force() -> None:
    bench = Bench()
    await bench.step()
    bench.now_s = 1_007.0
    assert await bench.step(TWO) == ()
    assert bench.live.current is TWO
    assert bench.applied == ["1", "2"]
    assert (bench.live.report.digest, bench.live.report.since_s) == ("2", 1_007.0)


async def test_what_a_request_took_stays_whole_while_the_configuration_changes() -> None:
    bench = Bench()
    taken = bench.live.current
    await bench.step(TWO)
    assert taken.routes["r"].candidates == ("one",)
    assert bench.live.current.routes["r"].candidates == ("two",)


async def test_a_file_that_is_wrong_keeps_the_old_one_and_is_reported_until_it_is_right() -> None:
    bench = Bench()
    await bench.step()
    wrong = ("tenants.acme.regin: Extra inputs are not permitted",)
    assert await bench.step(BadConfiguration(wrong)) == wrong
    for _ in range(3):
        assert await bench.step() == wrong
    bench.models("one", "two", "three")
    assert await bench.step() == wrong
    assert bench.live.current is ONE
    assert await bench.step(TWO) == ()
    assert bench.live.current is TWO


async def test_what_leads_nowhere_in_the_catalogue_is_refused_until_the_catalogue_has_it() -> None:
    bench = Bench(ONE, "one")
    await bench.step()
    problem = "routes.r.candidates[0]: no model 'two' is in the catalogue"
    assert await bench.step(TWO) == (problem,)
    assert bench.live.current is ONE
    assert bench.applied == ["1"]
    bench.models("one", "two")
    assert await bench.step() == ()
    assert bench.live.current is TWO


async def test_a_model_that_leaves_the_catalogue_is_reported_and_nothing_else_stops_working() -> None:
    bench = Bench()
    assert await bench.step() == ()
    bench.models("two")
    assert await bench.step() == ("routes.r.candidates[0]: no model 'one' is in the catalogue",)
    assert bench.live.current is ONE
    bench.models("one")
    assert await bench.step() == ()


async def test_before_the_models_are_known_the_catalogue_is_not_asked_for_and_checked_as_soon_as_it_is_there() -> None:
    bench = Bench(TWO, "one")
    known, bench.catalogue = bench.catalogue, None
    assert await bench.step() == ()
    bench.catalogue = known
    assert await bench.step() == ("routes.r.candidates[0]: no model 'two' is in the catalogue",)
    assert bench.live.current is TWO


async def test_a_database_that_is_away_delays_the_change_and_loses_nothing() -> None:
    bench = Bench()
    await bench.step()
    bench.database_down = True
    assert await bench.step(TWO) == ("it cannot be applied: the database is away",)
    assert bench.live.current is ONE
    assert await bench.step() == ("it cannot be applied: the database is away",)
    bench.database_down = False
    assert await bench.step() == ()
    assert bench.live.current is TWO


async def test_the_first_one_too_waits_for_its_database_even_past_a_wrong_file() -> None:
    bench = Bench()
    bench.database_down = True
    assert await bench.step() == ("it cannot be applied: the database is away",)
    assert await bench.step(BadConfiguration(["it is empty"])) == ("it is empty",)
    bench.database_down = False
    assert await bench.step() == ("it is empty",)
    assert bench.applied == ["1"]


async def test_a_newer_change_replaces_one_that_waits() -> None:
    bench = Bench()
    await bench.step()
    bench.database_down = True
    await bench.step(TWO)
    three = routed("one", "3")
    await bench.step(three)
    bench.database_down = False
    assert await bench.step() == ()
    assert bench.live.current is three
    assert bench.applied == ["1", "3"]


async def test_a_wrong_file_withdraws_a_change_that_waits() -> None:
    bench = Bench()
    await bench.step()
    bench.database_down = True
    await bench.step(TWO)
    await bench.step(BadConfiguration(["it is empty"]))
    bench.database_down = False
    assert await bench.step() == ("it is empty",)
    assert bench.live.current is ONE


async def test_what_is_taken_up_at_the_start_alone_is_said_to_wait_for_it() -> None:
    bench = Bench()
    await bench.step()
    changed = Configuration(ledger=LedgerPolicy(7), limits=LimitsPolicy("closed"), digest="3")
    assert await bench.step(changed) == (
        "limits: the change takes effect when the gateway is started again",
        "ledger: the change takes effect when the gateway is started again",
    )
    assert bench.live.current is changed
    assert await bench.step(TWO) == ()
