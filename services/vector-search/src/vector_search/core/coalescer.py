"""Joins what is asked at the same time: while one call of a kind runs, the next ones of that kind gather."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
Q = TypeVar("Q")
A = TypeVar("A")

MOST_IN_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class _Asked(Generic[Q, A]):
    question: Q
    future: asyncio.Future[A]


class Coalescer(Generic[K, Q, A]):
    """Runs a blocking function over batches of questions that share a key. An idle key is served at once."""

    def __init__(
        self, answer: Callable[[K, Sequence[Q]], Sequence[A]], executor: Executor, at_once: Callable[[K, int], bool]
    ) -> None:
        """Take the function, which returns one answer per question, and where it runs.

        It runs on the event loop where `at_once` says that so many questions take less than a thread would cost.
        """
        self._answer = answer
        self._executor = executor
        self._at_once = at_once
        self._gathering: dict[K, deque[_Asked[Q, A]]] = {}

    async def ask(self, key: K, question: Q) -> A:
        """Return the answer to a question, or raise what the function raised for its batch."""
        loop = asyncio.get_running_loop()
        asked: _Asked[Q, A] = _Asked(question, loop.create_future())
        lane = self._gathering.get(key)
        if lane is None:
            self._gathering[key] = deque((asked,))
            # What has come in by now is asked in the same turn of the loop.
            loop.call_soon(self._start_next, key)
        else:
            lane.append(asked)
        return await asked.future

    def _start_next(self, key: K) -> None:
        """Begin with what has gathered; questions nobody waits for any more are dropped."""
        lane = self._gathering[key]
        batch: list[_Asked[Q, A]] = []
        while lane and len(batch) < MOST_IN_BATCH:
            asked = lane.popleft()
            if not asked.future.done():
                batch.append(asked)
        if not batch:
            del self._gathering[key]
            return
        questions = [asked.question for asked in batch]
        done: asyncio.Future[Sequence[A]]
        if self._at_once(key, len(batch)):
            done = self._answered_here(key, questions)
        else:
            done = asyncio.get_running_loop().run_in_executor(self._executor, self._answer, key, questions)
        done.add_done_callback(lambda done: self._ended(key, batch, done))

    def _answered_here(self, key: K, questions: Sequence[Q]) -> asyncio.Future[Sequence[A]]:
        done: asyncio.Future[Sequence[A]] = asyncio.get_running_loop().create_future()
        try:
            done.set_result(self._answer(key, questions))
        except Exception as error:  # noqa: BLE001  raised again where the question was asked
            done.set_exception(error)
        return done

    def _ended(self, key: K, batch: list[_Asked[Q, A]], done: asyncio.Future[Sequence[A]]) -> None:
        self._start_next(key)
        failure = asyncio.CancelledError() if done.cancelled() else done.exception()
        if isinstance(failure, asyncio.CancelledError):
            for asked in batch:
                asked.future.cancel()
        elif failure is not None:
            for asked in batch:
                if not asked.future.done():
                    asked.future.set_exception(failure)
        else:
            for asked, answer in zip(batch, done.result(), strict=True):
                if not asked.future.done():
                    asked.future.set_result(answer)
