"""Cuts a byte stream of server-sent events into their data, however the network has cut it before."""

from typing import Final

LONGEST_EVENT_BYTES: Final = 1024 * 1024


class EventTooLong(ValueError):
    """A line or an event is longer than any sane one."""


class EventStream:
    """Takes chunks and gives the data of each event that is complete; comments and other fields are dropped."""

    def __init__(self, longest: int = LONGEST_EVENT_BYTES) -> None:
        """Take how many bytes an event may have."""
        self._longest = longest
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes; raise EventTooLong."""
        text = self._rest + chunk if self._rest else chunk
        if b"\r" in text:
            text = _unified(text)
        lines = text.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > self._longest:
            raise EventTooLong
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._add(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        return events

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._longest:
            raise EventTooLong
        self._data.append(data)


def _unified(text: bytes) -> bytes:
    """Return the text with every line end a line feed; a last CR stays, its LF may be in the next chunk."""
    held = b"\r" if text.endswith(b"\r") else b""
    body = text[:-1] if held else text
    return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
