"""How important a request is."""

from enum import IntEnum


class Priority(IntEnum):
    """How important a request is; the least important is shed first."""

    BATCH = 0
    STANDARD = 1
    INTERACTIVE = 2

    @property
    def label(self) -> str:
        """The name that callers, configuration and services use: `batch`, `standard` or `interactive`."""
        return self.name.lower()
