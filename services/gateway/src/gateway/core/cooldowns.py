"""Which models are passed over for a while because they failed, and who may be the first to try one again."""

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from servicekit.errors import InvalidInput, TimedOut, Unavailable
from servicekit.telemetry.metrics import counter, gauge

MOST_MODELS: Final = 1024
LONGEST_RETRY_AFTER_S: Final = 120.0
RATE_LIMITED: Final = "rate_limited"
BUSY: Final = frozenset({"queue_full", "queue_timeout", "draining"})
"""Reasons of the pool that tell of its load, or of its own restart: the next candidate is asked, nothing cools."""

_cooled = counter("penstock_gateway_model_cooldowns", "Times a model was taken out because it failed", ["model"])
_cooling = gauge("penstock_gateway_models_cooling", "Models that are passed over because they failed")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CooldownPolicy:
    """`failures` in a row take a model out for `window_s`; each probe that fails doubles that, up to `longest_s`.

    A timeout counts as a failure only when the model had `patience_s` or more: short ones are the caller's wish.
    A probe that has not ended after `probe_s` no longer keeps others from probing. All times are in seconds.
    """

    failures: int = 5
    window_s: float = 5.0
    longest_s: float = 60.0
    patience_s: float = 5.0
    probe_s: float = 10.0


class _Record:
    """What is remembered of a model that failed; `open_until` is set once it is taken out."""

    __slots__ = ("failures", "open_until", "probe_until", "window_s")

    def __init__(self, window_s: float) -> None:
        self.failures = 0
        self.open_until: float | None = None
        self.probe_until = 0.0
        self.window_s = window_s


class Trial:
    """One attempt at a model. Exactly one of its methods is to be called when the attempt is over; the first counts."""

    __slots__ = ("_began_s", "_cooldowns", "_model", "_over", "_probe")

    def __init__(self, cooldowns: "Cooldowns", model: str, began_s: float, *, probe: bool) -> None:
        self._cooldowns = cooldowns
        self._model = model
        self._began_s = began_s
        self._probe = probe
        self._over = False

    def succeeded(self) -> None:
        """Say that the answer came whole."""
        if not self._over:
            self._over = True
            self._cooldowns.note_success(self._model, probe=self._probe)

    def failed(self, error: Exception) -> None:
        """Say what the attempt failed with; what is not the model's fault counts for nothing."""
        if self._over:
            return
        self._over = True
        if isinstance(error, InvalidInput):  # it answers, though not to this request
            self._cooldowns.note_success(self._model, probe=self._probe)
        elif self._cooldowns.is_outage(error, self._began_s):
            self._cooldowns.note_failure(self._model, error, probe=self._probe)
        elif self._probe:
            self._cooldowns.note_nothing(self._model)

    def abandoned(self) -> None:
        """Say that the caller left before the end: nothing was learned."""
        if not self._over:
            self._over = True
            if self._probe:
                self._cooldowns.note_nothing(self._model)


class Cooldowns:
    """The models that failed lately. Only those are remembered, at most 1024 of them."""

    def __init__(self, policy: CooldownPolicy, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self._clock_s = clock_s
        self._records: OrderedDict[str, _Record] = OrderedDict()
        _cooling.set_function(self._count)

    def left_s(self, model: str) -> float:
        """Return the seconds until the model may be asked; 0.0 when it may be now."""
        record = self._records.get(model)
        if record is None or record.open_until is None:
            return 0.0
        return max(0.0, max(record.open_until, record.probe_until) - self._clock_s())

    def begin(self, model: str) -> Trial | None:
        """Open an attempt; None when the model cools, or somebody else is probing it."""
        record = self._records.get(model)
        now_s = self._clock_s()
        if record is None or record.open_until is None:
            return Trial(self, model, now_s, probe=False)
        if now_s < record.open_until or now_s < record.probe_until:
            return None
        record.probe_until = now_s + self.policy.probe_s
        return Trial(self, model, now_s, probe=True)

    def is_outage(self, error: Exception, began_s: float) -> bool:
        """Say whether a failure tells that the model is broken."""
        if isinstance(error, Unavailable):
            return error.reason not in BUSY
        return isinstance(error, TimedOut) and self._clock_s() - began_s >= self.policy.patience_s

    def note_success(self, model: str, *, probe: bool) -> None:
        """Forget the failures; a model that is out comes back only through its probe, not through older attempts."""
        record = self._records.get(model)
        if record is None or (record.open_until is not None and not probe):
            return
        del self._records[model]
        if record.open_until is not None:
            log.info("model %s answers again", model)

    def note_nothing(self, model: str) -> None:
        """Let the next one probe."""
        record = self._records.get(model)
        if record is not None:
            record.probe_until = 0.0

    def note_failure(self, model: str, error: Exception, *, probe: bool) -> None:
        """Count a failure and take the model out when there were enough, or when it asked for a pause itself."""
        record = self._records.get(model) or self._remember(model)
        pause_s = _pause_s(error)
        was_out = record.open_until is not None
        record.failures += 1
        if was_out and not probe:  # began before the model was taken out
            pause_s = pause_s or 0.0
        elif pause_s is None and not probe and record.failures < self.policy.failures:
            return
        if probe:
            record.window_s = min(record.window_s * 2, self.policy.longest_s)
            record.probe_until = 0.0
        self._take_out(model, record, record.window_s if pause_s is None else pause_s)

    def _take_out(self, model: str, record: _Record, pause_s: float) -> None:
        until_s = self._clock_s() + pause_s
        if record.open_until is None or until_s > record.open_until:
            if pause_s > 0:
                _cooled.labels(model).inc()
                log.warning("model %s is passed over for %.0f s after %d failures", model, pause_s, record.failures)
            record.open_until = until_s

    def _remember(self, model: str) -> _Record:
        record = self._records[model] = _Record(self.policy.window_s)
        if len(self._records) > MOST_MODELS:
            self._records.popitem(last=False)
        return record

    def _count(self) -> float:
        now_s = self._clock_s()
        return sum(
            1 for each in list(self._records.values()) if each.open_until is not None and each.open_until > now_s
        )


def _pause_s(error: Exception) -> float | None:
    """Return how long a rate-limited host wants to be left alone, or None when he did not say."""
    if isinstance(error, Unavailable) and error.reason == RATE_LIMITED and error.retry_after_s is not None:
        return min(max(math.ceil(error.retry_after_s), 1.0), LONGEST_RETRY_AFTER_S)
    return None
