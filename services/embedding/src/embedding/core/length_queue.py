"""Texts waiting for the encoder: whose turn it is, and which others are of similar length."""

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from embedding.core.flight import Flight

PADDING_TOKENS = 16
"""What one more call to the encoder costs, in tokens encoded: less padding than this is cheaper."""

PADDING_SHARE = 8
"""A large batch may hold one padding token to so many of its own: our encoder packs it by length once more."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large one batch may grow: in texts, and in tokens with padding."""

    texts: int = 32
    tokens: int = 2048


class LengthQueue:
    """A fair queue of flights that departs in batches of similar length.

    A request's texts take turns that lie as far apart as they have tokens, starting at the turn now served
    (start-time fair queueing, Goyal et al. 1996). So a lone text does not wait for the whole of a large request that
    came before it, and nothing starves: every newcomer's turn is at or after the one now served.
    """

    def __init__(self) -> None:
        self._lanes: dict[int, dict[Flight, None]] = {}
        self._turns: list[tuple[int, int, Flight]] = []
        self._now = 0
        self._added = 0
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def add(self, flights: Sequence[Flight]) -> None:
        """Queue the texts of one request."""
        turn = self._now
        for flight in flights:
            self._lanes.setdefault(flight.length, {})[flight] = None
            heapq.heappush(self._turns, (turn, self._added, flight))
            self._added += 1
            turn += flight.length
        self._waiting += len(flights)

    def drop(self, flight: Flight) -> bool:
        """Forget a flight; False when it is not queued (any more)."""
        lane = self._lanes.get(flight.length)
        if lane is None or flight not in lane:
            return False
        self._remove(flight)
        return True

    def take(self, limits: BatchLimits) -> list[Flight]:
        """Remove and return the flight whose turn it is, and those of similar length that fit; [] when empty."""
        first = self._first()
        if first is None:
            return []
        batch, tokens, longest = [first], first.length, first.length
        self._remove(first)
        for length in sorted(self._lanes, key=lambda length: abs(length - first.length)):
            longest = max(longest, length)
            room = self._room(len(batch), tokens, length, longest, limits)
            chosen = list(itertools.islice(self._lanes[length], room))
            for flight in chosen:
                self._remove(flight)
            batch += chosen
            tokens += length * len(chosen)
            if length in self._lanes or len(batch) == limits.texts:
                break
        return batch

    @staticmethod
    def _room(texts: int, tokens: int, length: int, longest: int, limits: BatchLimits) -> int:
        """Return how many texts of this length may join before a limit or the padding stops them."""
        room = 0
        while texts + room < limits.texts:
            padded, own = longest * (texts + room + 1), tokens + length * (room + 1)
            if padded > limits.tokens or padded - own > max(PADDING_TOKENS, own // PADDING_SHARE):
                break
            room += 1
        return room

    def _first(self) -> Flight | None:
        while self._turns:
            turn, _, flight = heapq.heappop(self._turns)
            if flight in self._lanes.get(flight.length, ()):
                self._now = turn
                return flight
        return None

    def _remove(self, flight: Flight) -> None:
        lane = self._lanes[flight.length]
        del lane[flight]
        if not lane:
            del self._lanes[flight.length]
        self._waiting -= 1
