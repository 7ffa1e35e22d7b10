"""How many requests of a route may run at once, found from its latency, as TCP finds its window.

The formula is that of two well-known limiters. Netflix's concurrency-limits (`GradientLimit`, `Gradient2Limit`):
latency without load over latency now, clamped to 0.5..1, a square root of head-room, no change while the limit is not
in use. Envoy's adaptive concurrency filter: a tolerance, and a latency without load that is measured now and then.

    gradient = clamp(((1 + tolerance) * unloaded + slack) / median, 0.5, 1)
    limit    = limit * gradient + sqrt(limit)

What is ours: a sample counts only if its request began after the limit last changed, so a round takes at least one
latency and slow routes are not judged by old news; and a probe halves the limit, rather than dropping it to a few, and
goes on halving only while that makes answers quicker. From the start, and after quiet times, the limit doubles ahead of
what is asked for until that reaches it, and with streams even then, as long as answers are no slower for it, as TCP's
slow start does: else many long streams would wait for a limit that moves only as streams end.
"""

import math
from dataclasses import dataclass
from typing import Final

MOST_SAMPLES: Final = 256
"""Samples kept of one round; the median of a round is over no more than these."""

SAME: Final = 0.8
"""A median above this share of another one is no better than it."""

PROBE_SHARE: Final = 0.05
LONGEST_PROBE_GAP_S: Final = 600.0
STEADY_ROUNDS: Final = 3
"""A probe is compared with a time when the limit was reached for so many rounds: not with one when load was growing."""

PROBE_PATIENCE: Final = 8
SHORTEST_PATIENCE_S: Final = 0.5
"""A probe of streams that has not ended after so many latencies is given up: it waits for places that they hold on."""

STREAMS_MORE: Final = 0.25
BACKOFF: Final = 0.9
MOST_DROPPED: Final = 0.1
SMALLEST_S: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a limit learns. Times are seconds; a round closes after both `round_s` and `round_samples`.

    `slack_s` is what a busy process adds to answers by itself: a quick route is not overloaded for that.
    """

    tolerance: float = 0.25
    slack_s: float = 0.01
    round_s: float = 0.1
    round_samples: int = 32
    probe_every_s: float = 30.0


USUAL_PACE: Final = Pace()


class ConcurrencyLimit:
    """The limit of one route. `limit` is what may run now; `round` is noted by each request when it begins."""

    __slots__ = (
        "_before",
        "_bound",
        "_doubling",
        "_dropped",
        "_least",
        "_level",
        "_most",
        "_next_probe_s",
        "_pace",
        "_peak",
        "_probe_began_s",
        "_round_began_s",
        "_samples",
        "_seen",
        "_streams",
        "_trusted",
        "_unloaded_s",
        "limit",
        "round",
    )

    def __init__(self, least: int, first: int, most: int, now_s: float, pace: Pace = USUAL_PACE) -> None:
        self._least, self._most, self._pace = least, most, pace
        self.limit = min(max(first, least), most)
        self.round = 0
        self._unloaded_s: float | None = None
        self._trusted = False
        self._doubling = True
        self._before: tuple[int, float] | None = None
        self._level = 0.0
        self._next_probe_s = self._probe_began_s = now_s
        self._bound = 0
        self._samples: list[float] = []
        self._seen = self._dropped = self._peak = self._streams = 0
        self._round_began_s = now_s

    @property
    def unloaded_s(self) -> float | None:
        """The median latency (seconds) without load, or None before the first round."""
        return self._unloaded_s

    @property
    def fixed(self) -> bool:
        """Whether the bounds leave nothing to learn."""
        return self._least == self._most

    @property
    def probing(self) -> bool:
        """Whether the limit is lowered now to measure the latency without load."""
        return self._before is not None

    @property
    def _streaming(self) -> bool:
        return self._streams * 2 > self._seen

    def keep_within(self, least: int, most: int) -> None:
        """Change the bounds; the limit moves only as far as it has to."""
        self._least, self._most = least, most
        self.limit = min(max(self.limit, least), most)

    def sample(self, begun_in: int, latency_s: float, now_s: float, in_flight: int, *, goes_on: bool = False) -> None:
        """Learn from a request that was answered: the round it began in, its latency, and how many ran with it.

        `goes_on` says that it holds its place beyond that, as a stream does: then a round does not wait for as many
        answers as there are places, for those come only as streams end.
        """
        if begun_in != self.round:
            return
        self._streams += goes_on
        if len(self._samples) < MOST_SAMPLES:
            self._samples.append(latency_s)
        self._count(now_s, in_flight)

    def censored(self, begun_in: int, elapsed_s: float, now_s: float, in_flight: int) -> None:
        """Learn from a request that was given up after `elapsed_s`: only that it was slow, if it was.

        One that was given up sooner than an answer comes without load says nothing, so that callers with deadlines that
        are too short cannot push the limit down.
        """
        if self._unloaded_s is not None and elapsed_s >= self._unloaded_s:
            self.sample(begun_in, elapsed_s, now_s, in_flight)

    def dropped(self, begun_in: int, now_s: float, in_flight: int) -> None:
        """Learn from a request that was turned away behind us; its latency says nothing."""
        if begun_in == self.round:
            self._dropped += 1
            self._count(now_s, in_flight)

    def stream_left(self, now_s: float) -> None:
        """Learn that a request has ended whose latency is known since long: a probe that waits for such is given up."""
        if self._before is None or now_s < self._probe_began_s + max(PROBE_PATIENCE * self._level, SHORTEST_PATIENCE_S):
            return
        (limit, _), self._before = self._before, None
        self._pause(now_s)
        self._move(limit, now_s)

    def _count(self, now_s: float, in_flight: int) -> None:
        self._seen += 1
        self._peak = max(self._peak, in_flight)
        needed = self._pace.round_samples
        if not (self._doubling or self._streaming):
            needed = max(needed, min(self.limit, MOST_SAMPLES))
        if self._seen >= needed and now_s - self._round_began_s >= self._pace.round_s:
            self._close(now_s)

    def _close(self, now_s: float) -> None:
        if self._dropped > MOST_DROPPED * self._seen:
            self._before, self._doubling = None, False
            self._move(self.limit * BACKOFF, now_s)
            return
        self._bound = self._bound + 1 if self._peak >= self.limit else 0
        median_s = max(sorted(self._samples)[len(self._samples) // 2], SMALLEST_S)
        if self._before is not None:
            self._probed(median_s, now_s)
        elif self._peak * 2 < self.limit:
            self._idle(median_s, now_s)
        elif self._may_probe(now_s):
            self._before = (self.limit, median_s)
            self._level, self._probe_began_s = median_s, now_s
            self._move(self.limit / 2, now_s)
        else:
            self._unloaded_s = self._unloaded_s or median_s
            gradient = max(self._gradient(self._unloaded_s, median_s), 0.5)
            self._doubling = self._doubling and gradient == 1.0 and (self._streaming or self._peak < self.limit)
            self._move(self.limit * gradient + self._more(gradient), now_s)

    def _more(self, gradient: float) -> float:
        """Return the head-room of the next round; streams that were not slowed get more, for their rounds are long."""
        if self._doubling:
            return self.limit
        root = math.sqrt(self.limit)
        return max(root, self.limit * STREAMS_MORE) if self._streaming and gradient == 1.0 else root

    def _may_probe(self, now_s: float) -> bool:
        """Say whether to lower the limit for a measurement: only when it has held requests back for a while."""
        return self._bound >= STEADY_ROUNDS and now_s >= self._next_probe_s and self.limit > self._least

    def _idle(self, median_s: float, now_s: float) -> None:
        """Nothing is held back: leave the limit, and follow the latency, which is that without load."""
        self._doubling = True
        self._unloaded_s = median_s if self._unloaded_s is None else 0.8 * self._unloaded_s + 0.2 * median_s
        self._begin_round(now_s)

    def _probed(self, median_s: float, now_s: float) -> None:
        assert self._before is not None
        known = self._unloaded_s if self._trusted else None
        quicker = median_s < SAME * self._level
        as_known = known is not None and SAME <= median_s / known <= 1 / SAME
        if quicker and not as_known and self.limit > self._least:
            self._level = median_s
            self._move(self.limit / 2, now_s)
            return
        unloaded_s = median_s if quicker else min(median_s, self._level)
        self._unloaded_s = (unloaded_s + known) / 2 if known is not None and as_known else unloaded_s
        (limit, loaded_s), self._before, self._trusted = self._before, None, True
        self._pause(now_s)
        self._move(limit * self._gradient(self._unloaded_s, loaded_s) + math.sqrt(limit), now_s)

    def _gradient(self, unloaded_s: float, median_s: float) -> float:
        return min(((1 + self._pace.tolerance) * unloaded_s + self._pace.slack_s) / median_s, 1.0)

    def _pause(self, now_s: float) -> None:
        pause_s = min((now_s - self._probe_began_s) / PROBE_SHARE, LONGEST_PROBE_GAP_S)
        self._next_probe_s = now_s + max(pause_s, self._pace.probe_every_s)

    def _move(self, limit: float, now_s: float) -> None:
        moved = min(max(round(limit), self._least), self._most)
        if moved != self.limit:
            self.limit = moved
            self.round += 1
        self._begin_round(now_s)

    def _begin_round(self, now_s: float) -> None:
        self._samples.clear()
        self._seen = self._dropped = self._peak = self._streams = 0
        self._round_began_s = now_s
