"""Replicas follow the addresses of their server."""

import asyncio

from inference.core.discovery import Discovery
from inference.core.replica import Backend
from inference.core.replicas import Replicas
from inference_fakes import FakeTensors
from inference_replica_fakes import FakeAddresses, FakeConnection
from servicekit.testing import eventually


class Group:
    """A server with two models, and the connections that were opened."""

    def __init__(self) -> None:
        self.opened: dict[str, FakeConnection] = {}
        self.discovery: Discovery[FakeConnection] = Discovery("group", self._open)
        self.models = [Replicas(f"{number} of {id(self)}") for number in (1, 2)]
        for model in self.models:
            self.discovery.serve(model, lambda _: Backend(tensors=FakeTensors()))

    def _open(self, address: str) -> FakeConnection:
        self.opened[address] = FakeConnection(address)
        return self.opened[address]

    def addresses(self) -> list[list[str]]:
        return [[replica.address for replica in model.all()] for model in self.models]


async def test_every_model_has_a_replica_at_every_address_over_one_connection_each() -> None:
    group = Group()
    group.discovery.apply(frozenset({"a:1", "b:1"}))
    assert group.addresses() == [["a:1", "b:1"]] * 2
    assert sorted(group.opened) == ["a:1", "b:1"]
    one, two = (model.choose() for model in group.models)
    one.enter()
    assert next(each for each in group.models[1].all() if each.address == one.address).outstanding == 1
    assert two.address in group.opened


async def test_a_model_that_comes_later_has_its_replicas_at_once() -> None:
    group = Group()
    group.discovery.apply(frozenset({"a:1"}))
    late = Replicas("late")
    group.discovery.serve(late, lambda _: Backend(tensors=FakeTensors()))
    assert [replica.address for replica in late.all()] == ["a:1"]


async def test_an_address_that_is_gone_gets_nothing_new_and_is_closed_when_it_is_idle() -> None:
    group = Group()
    group.discovery.apply(frozenset({"a:1"}))
    replica = group.models[0].choose()
    replica.enter()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(group.discovery.follow(FakeAddresses(frozenset({"b:1"}))))
        await eventually(lambda: group.addresses() == [["b:1"]] * 2)
        assert not group.opened["a:1"].closed
        replica.succeeded()
        await eventually(lambda: group.opened["a:1"].closed)
        await following
    assert not group.opened["b:1"].closed


async def test_no_address_at_all_leaves_no_replica() -> None:
    group = Group()
    group.discovery.apply(frozenset({"a:1"}))
    assert [server.address for server, _ in group.discovery.apply(frozenset())] == ["a:1"]
    assert group.addresses() == [[], []]


async def test_an_address_that_comes_back_is_a_new_one() -> None:
    group = Group()
    group.discovery.apply(frozenset({"a:1"}))
    old = group.models[0].choose()
    old.enter()
    group.discovery.apply(frozenset())
    group.discovery.apply(frozenset({"a:1"}))
    assert group.models[0].choose() is not old
    assert group.models[0].choose().outstanding == 0
    await group.discovery.close()
    assert group.opened["a:1"].closed
