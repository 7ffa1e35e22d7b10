"""Addresses by DNS."""

import socket
from collections.abc import Sequence
from contextlib import aclosing

from inference.adapters.replica_addresses import DnsAddresses, resolve


class FakeResolver:
    """Answers one after another, and then the last for ever."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


def following(*answers: Sequence[str] | Exception) -> DnsAddresses:
    return DnsAddresses("triton.ai.svc:8001", period_s=0.001, look_up=FakeResolver(*answers))


async def test_every_address_of_the_name_is_a_replica_and_changes_are_told() -> None:
    same, more = ["10.0.0.1"], ["10.0.0.1", "fd00::2"]
    async with aclosing(following(same, same, more, ["fd00::2"]).watch()) as addresses:
        assert await anext(addresses) == {"10.0.0.1:8001"}
        assert await anext(addresses) == {"10.0.0.1:8001", "[fd00::2]:8001"}
        assert await anext(addresses) == {"[fd00::2]:8001"}


async def test_a_name_that_is_gone_has_no_addresses() -> None:
    gone = socket.gaierror(socket.EAI_NONAME, "no such name")
    async with aclosing(following(["10.0.0.1"], gone).watch()) as addresses:
        assert await anext(addresses) == {"10.0.0.1:8001"}
        assert await anext(addresses) == frozenset()


async def test_while_the_name_cannot_be_looked_up_the_last_addresses_stay() -> None:
    again = socket.gaierror(socket.EAI_AGAIN, "later")
    async with aclosing(
        following(["10.0.0.1"], again, OSError(), TimeoutError(), UnicodeError(), ["10.0.0.2"]).watch()
    ) as addresses:
        assert await anext(addresses) == {"10.0.0.1:8001"}
        assert await anext(addresses) == {"10.0.0.2:8001"}


async def test_the_systems_resolver_knows_this_machine() -> None:
    assert "127.0.0.1" in await resolve("localhost", 80)
