"""The right version answers, under the model's own name, and a wrong one answers nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from inference.core.answer import Served
from inference.core.catalogue import Task
from inference.core.conversation import Turn
from inference.core.generation import Order
from inference.core.pool import Pool
from inference.core.ports import ModelState
from inference.core.registry import Judged, NewVersion, Registry
from inference.core.served_model import ServedModel
from inference.core.shadow import Difference, Mirror, Speech
from inference.core.traffic import Caller, SplitBy
from inference.core.versioned_pool import VersionedPool
from inference.core.versions import Canary, Variant, Verdict
from inference_fakes import FakeGenerator, FakeTensors, generating, model
from inference_replica_fakes import CHECKED, benches
from inference_version_fakes import FakeVersionStore, SpellingLabels, assigned, digest, registered, running
from servicekit.errors import NotFound, Unavailable

ORDER = Order([Turn("user", "Hi")])


@dataclass
class Bench:
    """A pool of two chats and two tensor models, the second of each is the first's version 2."""

    versions: Registry
    pool: VersionedPool
    entries: dict[str, ServedModel]
    callers: list[Caller]

    async def infer(self, caller: Caller) -> bytes:
        self.callers[0] = caller
        return await self.pool.infer("rows", b"r")

    def tensors(self, entry: str) -> FakeTensors:
        found = self.entries[entry].tensors
        assert isinstance(found, FakeTensors)
        return found

    def orders(self, entry: str) -> int:
        found = self.entries[entry].generator
        assert isinstance(found, FakeGenerator)
        return len(found.orders)


def bench(random: float = 0.0) -> Bench:
    served = [
        running(generating(FakeGenerator(), "chat"), 1),
        running(generating(FakeGenerator(), "chat-v2"), 2),
        running(ServedModel(model("rows", Task.TENSOR), tensors=FakeTensors(b"one")), 3),
        running(ServedModel(model("rows-v2", Task.TENSOR), tensors=FakeTensors(b"two")), 4),
    ]
    entries = {each.model.name: each for each in served}
    pool, store = Pool(served), FakeVersionStore()
    versions = Registry(store, entries)
    speech = Speech(SpellingLabels().asked, lambda ours, theirs: Difference(ours == theirs))
    mirror = Mirror(pool, entries, speech, store)
    callers = [Caller("acme", "key")]
    versioned = VersionedPool(pool, versions.traffic, mirror, SpellingLabels(), lambda: callers[0], lambda: random)
    return Bench(versions, versioned, entries, callers)


async def with_second(name: str, **roles: object) -> Bench:
    made = bench()
    await registered(made.versions, name, "2", f"{name}-v2")
    await assigned(made.versions, name, **roles)
    return made


async def test_a_model_without_roles_goes_to_its_entry_untouched() -> None:
    made = bench()
    assert await made.pool.infer("rows", b"r") == b"one"
    assert made.tensors("rows").requests == [b"r"]
    assert (await made.pool.complete("chat", ORDER)).served.version == "v1"
    with pytest.raises(NotFound):
        await made.pool.infer("nobody", b"r")


async def test_a_champion_answers_under_the_models_name_with_its_version() -> None:
    made = await with_second("rows", champion="2")
    assert await made.pool.infer("rows", b"r") == b"two<rows:2"
    assert [each async for each in made.pool.stream("rows", b"r")] == [b"two<rows:2", b"two<rows:2"]
    assert await made.pool.metadata("rows", b"r") == b"two<rows"
    assert await made.pool.config("rows", b"r") == b"two<rows"
    assert set(made.tensors("rows-v2").requests) == {b"r>rows-v2"}
    assert made.tensors("rows").requests == []
    assert made.pool.state("rows") == replace(made.entries["rows-v2"].state, version="2")


async def test_a_chat_tells_version_and_digest_of_who_wrote_it() -> None:
    made = await with_second("chat", champion="2")
    whole = await made.pool.complete("chat", ORDER)
    streamed = [piece async for piece in made.pool.generate("chat", ORDER)]
    expected = Served("2", "id-1", "fp-1", digest(2))
    assert (whole.served, streamed[0].served) == (expected, expected)
    assert (made.orders("chat"), made.orders("chat-v2")) == (0, 2)


async def test_a_canary_takes_its_callers_and_no_other() -> None:
    made = await with_second("rows", canaries=[Canary("2", 10)])
    answers = {key: await made.infer(Caller("acme", f"{key}")) for key in range(300)}
    again = {key: await made.infer(Caller("acme", f"{key}")) for key in range(300)}
    canary = sum(each == b"two<rows:2" for each in answers.values())
    assert answers == again
    assert 10 <= canary <= 60
    assert set(answers.values()) == {b"one", b"two<rows:2"}


async def test_of_20000_requests_a_canary_of_ten_percent_gets_ten_percent_give_or_take_one() -> None:
    made = await with_second("rows", canaries=[Canary("2", 10)])
    for number in range(20_000):
        await made.infer(Caller(f"tenant-{number % 50}", f"key-{number}"))
    assert 0.09 <= len(made.tensors("rows-v2").requests) / 20_000 <= 0.11


@pytest.mark.parametrize(
    "state",
    [
        ModelState(ready=False, reason="golden_failed", digest=digest(4)),
        ModelState(ready=True, digest=digest(5)),
        ModelState(ready=True),
    ],
)
async def test_a_wrong_canary_never_gets_a_request(state: ModelState) -> None:
    made = await with_second("rows", canaries=[Canary("2", 100)])
    made.entries["rows-v2"].state = state
    assert await made.pool.infer("rows", b"r") == b"one"
    assert made.tensors("rows-v2").requests == []
    made.entries["rows-v2"].state = ModelState(ready=True, digest=digest(4))
    assert await made.pool.infer("rows", b"r") == b"two<rows:2"


async def test_a_champion_of_another_content_answers_nobody() -> None:
    made = await with_second("rows", champion="2")
    made.entries["rows-v2"].state = ModelState(ready=True, digest=digest(9))
    with pytest.raises(Unavailable) as caught:
        await made.pool.infer("rows", b"r")
    assert (caught.value.reason, caught.value.retry_after_s) == ("not_loaded", 1.0)
    assert made.tensors("rows-v2").requests == []
    assert not made.pool.state("rows").ready


async def test_the_dearer_variant_serves_while_the_cheaper_cannot() -> None:
    made = bench()
    await registered(made.versions, "rows", "2", "rows-v2", "rows")
    await assigned(made.versions, "rows", champion="2")
    assert await made.pool.infer("rows", b"r") == b"two<rows:2"
    running(made.entries["rows-v2"], 4, ready=False)
    assert await made.pool.infer("rows", b"r") == b"one<rows:2"


async def test_requests_are_drawn_one_by_one_where_that_is_wanted() -> None:
    roles = {"canaries": [Canary("2", 10)], "split_by": SplitBy.REQUEST}
    for random, expected in ((0.0, b"two<rows:2"), (0.0999, b"two<rows:2"), (0.1, b"one"), (0.99999, b"one")):
        made = bench(random)
        await registered(made.versions, "rows", "2", "rows-v2")
        await assigned(made.versions, "rows", **roles)
        assert await made.pool.infer("rows", b"r") == expected


@asynccontextmanager
async def load(made: Bench, callers: int) -> AsyncIterator[list[bytes | BaseException]]:
    """Keep callers asking; what they got is in the list at the end."""
    answers: list[bytes | BaseException] = []
    stopped = asyncio.Event()

    async def ask(key: str) -> None:
        while not stopped.is_set():
            answers.append(await made.infer(Caller("acme", key)))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for number in range(callers):
            tasks.create_task(ask(f"key-{number}"))
        yield answers
        stopped.set()


async def test_promotions_and_rollbacks_under_load_fail_nobody() -> None:
    made = await with_second("rows", canaries=[Canary("2", 10)])
    made.entries["rows"].model = replace(made.entries["rows"].model)
    async with load(made, callers=2) as answers:
        for round_ in range(200):
            wish = {"champion": "2"} if round_ % 2 else {"canaries": [Canary("2", 10 + round_ % 90)]}
            await assigned(made.versions, "rows", **wish)
            await asyncio.sleep(0)
    assert len(answers) > 200
    assert set(answers) == {b"one", b"two<rows:2"}


async def test_a_canary_whose_golden_probe_fails_gets_nobody_until_it_passes_and_loses_everybody_when_it_fails() -> (
    None
):
    replicas, (canary,) = await benches("canary:1")
    name = model().name
    first = running(ServedModel(model(name, Task.TENSOR), tensors=FakeTensors(b"one")), 1)
    second = ServedModel(model(f"{name}-v2", Task.TENSOR), tensors=canary.tensors, replicas=replicas)
    entries = {each.model.name: each for each in (first, second)}
    pool, store = Pool([first, second]), FakeVersionStore()
    versions = Registry(store, entries)
    speech = Speech(SpellingLabels().asked, lambda *_: Difference(same=True))
    mirror = Mirror(pool, entries, speech, store)
    versioned = VersionedPool(pool, versions.traffic, mirror, SpellingLabels(), Caller)
    variants = [Variant("default", second.model.name, "")]
    second.state = replace(second.state, digest=digest(2))
    canary.prober.state = replace(CHECKED, digest=digest(2))
    await canary.check()
    await canary.check(after_s=60.0)
    await versions.register(NewVersion(name, "2", variants), "tester")
    await versions.judge(name, "2", Judged("default", Verdict.PASSED), "tester")
    await assigned(versions, name, canaries=[Canary("2", 100)])

    async def answers() -> set[bytes]:
        return {await versioned.infer(name, b"r") for _ in range(20)}

    assert await answers() == {b"canary:1<" + f"{name}:2".encode()}
    canary.arrays.factor = 2.5  # it answers quickly, and wrongly
    await canary.check(after_s=10.0)
    asked = len(canary.tensors.requests)
    assert await answers() == {b"one"}
    assert len(canary.tensors.requests) == asked
    canary.arrays.factor = 2.0
    await canary.check(after_s=10.0)
    await canary.check(after_s=10.0)
    assert b"one" not in await answers()
