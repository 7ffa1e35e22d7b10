"""Ends an answer at a stop text, for backends that do not do it themselves."""

from collections.abc import Sequence


class StopFilter:
    """Passes text on up to the first stop text, which is left out; `met` tells that one came."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.met = False
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def pass_on(self, piece: str) -> str:
        """Return what can be told now; an end that a stop text may begin with is held back."""
        if not self._stops:
            return piece
        text = self._held + piece
        found = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if found:
            self.met = True
            self._held = ""
            return text[: min(found)]
        keep = self._suspicious(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """Return what was held back, when the answer has ended without a stop text."""
        held, self._held = self._held, ""
        return held

    def _suspicious(self, text: str) -> int:
        """Return how many of the last characters could be the beginning of a stop text."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
