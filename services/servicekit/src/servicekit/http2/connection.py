"""One HTTP/2 connection, of either side: its streams, their windows both ways, and its end.

What a stream sends goes out at once where the windows and the socket allow it, and else waits its turn; a stream that
waits holds no other up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from servicekit.http2 import frames
from servicekit.http2.frame_reader import FRAME_LIMIT, FrameReader, Part
from servicekit.http2.frames import Http2Error
from servicekit.http2.header_blocks import Header, Reader
from servicekit.http2.packets import Packets

WRITE_AHEAD_BYTES: Final = 256 * 1024
"""How much may wait in the socket's buffer before streams have to wait."""

MOST_UNREAD_BYTES: Final = 4 * 1024 * 1024
"""A peer that makes us answer (pings, settings, resets) and reads nothing of it is let go at this."""


class Stream:
    """One stream; a subclass says what to do with what comes."""

    __slots__ = ("_owed", "_receivable", "_sendable", "_waiting", "connection", "number")

    def __init__(self, connection: "Connection", number: int) -> None:
        self.connection = connection
        self.number = number
        self._sendable = connection.initial_window
        self._receivable = frames.DEFAULT_WINDOW
        self._owed = 0
        self._waiting: deque[tuple[memoryview, int] | bytes] = deque()

    # --- for a subclass ---

    def headers(self, headers: Sequence[Header], *, ended: bool) -> None:
        """Take a header block; `ended` says that nothing follows."""
        raise NotImplementedError

    def data(self, part: Part, *, ended: bool) -> None:
        """Take some bytes; `ended` says that nothing follows."""
        raise NotImplementedError

    def sent_on(self) -> None:
        """Take that nothing waits any more."""

    def broken(self, code: int | None) -> None:
        """Take the end that the other side made, with its error code, or without one: the connection is gone."""
        raise NotImplementedError

    # --- sending ---

    def may_send(self) -> bool:
        """Tell whether what is sent now goes out at once, or begins to."""
        return not self._waiting and self._sendable > 0 and self.connection.may_send()

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes, now or as soon as there is leave to."""
        flags = frames.END_STREAM if end else 0
        if self.connection.gone:
            return
        if self._waiting or not self.connection.send_whole(self, data, flags):
            self._waiting.append((memoryview(data), flags))
            self.connection.let_wait(self)

    def send_headers(self, block: bytes, *, end: bool = False) -> None:
        """Send a header block, after all data that still waits."""
        if len(block) <= frames.SMALLEST_FRAME_LIMIT:
            flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
            written = frames.frame(frames.HEADERS, flags, self.number, block)
        else:
            written = b"".join(frames.header_frames(self.number, block, self.connection.frame_limit, end=end))
        if self._waiting:
            self._waiting.append(written)
        else:
            self.connection.write(written)

    def stop_sending(self) -> None:
        """Drop what waits."""
        self._waiting.clear()

    def give_up(self, code: int) -> None:
        """Say that the stream is no longer wanted, or cannot be gone on with."""
        self.stop_sending()
        self.connection.forget(self)
        self.connection.write(frames.reset(self.number, code))

    def take_window(self, wanted: int) -> int:
        """Return how many of `wanted` bytes may be sent now, and count them as sent."""
        size = max(0, min(wanted, self._sendable))
        self._sendable -= size
        return size

    def widen(self, size: int) -> None:
        """Count leave to send more; a change of settings may take some back."""
        self._sendable += size
        if self._sendable > frames.LARGEST_WINDOW:
            raise Http2Error(frames.FLOW_CONTROL_ERROR, "a window is too large")

    def send_waiting(self) -> bool:
        """Send a frame of what waits; tell whether any could be sent."""
        item = self._waiting[0]
        if isinstance(item, bytes):
            self.connection.write(item)
            self._waiting.popleft()
            return True
        view, flags = item
        size = self.connection.send_part(self, view, flags)
        if size == len(view):
            self._waiting.popleft()
            return True
        self._waiting[0] = view[size:], flags
        return size > 0

    @property
    def waits(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._waiting)

    # --- receiving ---

    def received(self, size: int) -> None:
        """Count what came against the window."""
        self._receivable -= size
        if self._receivable < 0:
            raise Http2Error(frames.FLOW_CONTROL_ERROR, "a stream sent more than it may")

    def taken(self, size: int) -> None:
        """Let the other side send as much again as has been dealt with."""
        self._owed += size
        if self._owed >= frames.DEFAULT_WINDOW // 2:
            self._let_send(self._owed)
            self._owed = 0

    def admit(self, size: int) -> None:
        """Let so many bytes come now; they are not let in again when they have been dealt with."""
        self._owed -= size
        self._let_send(size)

    def _let_send(self, size: int) -> None:
        self._receivable += size
        self.connection.write(frames.window_update(self.number, size))


class Connection(asyncio.Protocol):
    """One connection. A subclass opens streams, or says what to do with those that the other side opens."""

    def __init__(self, greeting: bytes, expected: bytes) -> None:
        """Take what goes before our first frame, and what has to come before the other side's."""
        self.streams: dict[int, Stream] = {}
        self.initial_window = frames.DEFAULT_WINDOW
        self.frame_limit = frames.SMALLEST_FRAME_LIMIT
        self.most_streams = frames.LARGEST_WINDOW
        self.heard = False
        """Whether anything came since somebody last set this to False."""
        self.gone = False
        self._greeting = greeting
        self._reader = FrameReader(expected, self._take, self._take_data)
        self._blocks = Reader()
        self._transport: Any = None
        self._sendable = frames.DEFAULT_WINDOW
        self._received = 0
        self._full = False
        self._queue: deque[Stream] = deque()
        self._packets = Packets(lambda: len(self.streams))
        self._frames: dict[int, Callable[[int, int, bytes], None]] = {
            frames.HEADERS: self._take_headers,
            frames.RST_STREAM: self._take_reset,
            frames.SETTINGS: self._take_settings,
            frames.PUSH_PROMISE: self._take_push,
            frames.PING: self._take_ping,
            frames.GOAWAY: self._take_go_away,
            frames.WINDOW_UPDATE: self._take_window,
        }

    # --- for a subclass ---

    def opened(self, number: int, headers: Sequence[Header], *, ended: bool) -> None:
        """Take the headers of a stream that is not known."""
        raise NotImplementedError

    def went_away(self, last_stream: int, code: int) -> None:
        """Take that the other side serves no stream after this one."""
        raise NotImplementedError

    def ended(self) -> None:
        """Take that the connection is gone; its streams have been told."""

    # --- the socket's side ---

    def connection_made(self, transport: Any) -> None:
        """Say how we want to be spoken to."""
        self._transport = transport
        self._packets.go_to(transport)
        transport.set_write_buffer_limits(WRITE_AHEAD_BYTES)
        pairs = [(frames.MAX_FRAME_SIZE, FRAME_LIMIT)] + ([(frames.ENABLE_PUSH, 0)] if self._greeting else [])
        window = frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)
        transport.write(self._greeting + frames.settings(pairs) + window)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Tell every stream."""
        self.gone = True
        self._queue.clear()
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.broken(None)
        self.ended()

    def pause_writing(self) -> None:
        """Let streams wait: the socket is full."""
        self._full = True

    def resume_writing(self) -> None:
        """Send on."""
        self._full = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        """Take what came; a peer that breaks the protocol is told so and let go."""
        self.heard = True
        try:
            self._reader.feed(data)
        except Http2Error as error:
            self.close(error.code)

    # --- sending ---

    def write(self, data: bytes) -> None:
        """Write frames that no window holds back."""
        if not self.gone:
            self._packets.write(data)

    def hurry(self) -> None:
        """Send what was written, and wait for no more."""
        if not self.gone:
            self._packets.hurry()

    def lone(self) -> None:
        """Send what was written if there is nobody else whose frames could go along."""
        if len(self.streams) <= 1:
            self.hurry()

    def may_send(self) -> bool:
        """Tell whether data would go out."""
        return self._sendable > 0 and not self._full

    def send_whole(self, stream: Stream, data: bytes, flags: int) -> bool:
        """Send data as one frame if that can be done now; tell whether it was."""
        size = len(data)
        if self._full or size > self.frame_limit or size > self._sendable:
            return False
        granted = stream.take_window(size)
        if granted < size:
            stream.widen(granted)
            return False
        self._sendable -= size
        self.write(frames.frame(frames.DATA, flags, stream.number, data))
        return True

    def send_part(self, stream: Stream, data: memoryview, flags: int) -> int:
        """Send as much of the data as one frame takes and the windows allow; return how much that was."""
        size = stream.take_window(min(len(data), self.frame_limit, self._sendable))
        if size or not data:
            self._sendable -= size
            self.write(frames.data_head(size, flags if size == len(data) else 0, stream.number))
            self._packets.write_now(data[:size])
        return size

    def let_wait(self, stream: Stream) -> None:
        """Send what the stream has when its turn comes."""
        if stream not in self._queue:
            self._queue.append(stream)
        self._pump()

    def forget(self, stream: Stream) -> None:
        """Take no more for a stream."""
        self.streams.pop(stream.number, None)

    def say_goodbye(self, last_stream: int = frames.LARGEST_WINDOW, code: int = frames.NO_ERROR) -> None:
        """Say that no stream after this one is served."""
        self.write(frames.go_away(last_stream, code))

    def close(self, code: int = frames.NO_ERROR) -> None:
        """Say why, and end the connection when what was written is sent."""
        if not self.gone and not self._transport.is_closing():
            self.say_goodbye(max(self.streams, default=0), code)
            self.hurry()
            self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, frame: bytes) -> None:
        """Write what the other side made us write."""
        self.write(frame)
        if self._full and self._transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.abort()

    def _pump(self) -> None:
        """Let the streams that wait send a frame each, in turn, until nothing can go."""
        stuck = 0
        while self._queue and stuck < len(self._queue) and not self._full:
            stream = self._queue.popleft()
            if not stream.waits:
                continue
            stuck = 0 if stream.send_waiting() else stuck + 1
            if stream.waits:
                self._queue.append(stream)
            else:
                stream.sent_on()

    # --- receiving ---

    def _take_data(self, number: int, part: Part, size: int, ended: bool) -> None:
        self._received += size
        if self._received > frames.LARGEST_WINDOW // 2:
            self.write(frames.window_update(0, self._received))
            self._received = 0
        stream = self.streams.get(number)
        if stream is not None:
            stream.received(size)
            stream.data(part, ended=ended)

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        take = self._frames.get(kind)
        if take is not None:  # whatever else there may be is to be ignored
            take(flags, number, payload)

    def _take_headers(self, flags: int, number: int, payload: bytes) -> None:
        headers = self._blocks.read(payload)  # also of a stream that is gone: it may change the table
        stream = self.streams.get(number)
        if stream is None:
            self.opened(number, headers, ended=bool(flags & frames.END_STREAM))
        else:
            stream.headers(headers, ended=bool(flags & frames.END_STREAM))

    def _take_reset(self, _flags: int, number: int, payload: bytes) -> None:
        code = int.from_bytes(frames.exactly(payload, 4), "big")
        stream = self.streams.get(number)
        if stream is not None:
            stream.stop_sending()
            self.forget(stream)
            stream.broken(code)

    def _take_settings(self, flags: int, _number: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        for key, value in frames.read_settings(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                self._change_windows(value)
            elif key == frames.MAX_FRAME_SIZE:
                if not frames.SMALLEST_FRAME_LIMIT <= value <= frames.LARGEST_FRAME_LIMIT:
                    raise Http2Error(frames.PROTOCOL_ERROR, "this frame size cannot be")
                self.frame_limit = min(value, WRITE_AHEAD_BYTES)
            elif key == frames.MAX_CONCURRENT_STREAMS:
                self.most_streams = value
        self._answer(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._pump()

    def _change_windows(self, value: int) -> None:
        if value > frames.LARGEST_WINDOW:
            raise Http2Error(frames.FLOW_CONTROL_ERROR, "a window is too large")
        change, self.initial_window = value - self.initial_window, value
        for stream in self.streams.values():
            stream.widen(change)

    def _take_push(self, _flags: int, _number: int, _payload: bytes) -> None:
        raise Http2Error(frames.PROTOCOL_ERROR, "nobody asked for a push")

    def _take_ping(self, flags: int, _number: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self._answer(frames.frame(frames.PING, frames.ACK, 0, frames.exactly(payload, 8)))

    def _take_go_away(self, _flags: int, _number: int, payload: bytes) -> None:
        if len(payload) < 8:
            raise Http2Error(frames.FRAME_SIZE_ERROR, "a farewell is cut off")
        last = int.from_bytes(payload[:4], "big") & frames.LARGEST_WINDOW
        self.went_away(last, int.from_bytes(payload[4:8], "big"))

    def _take_window(self, _flags: int, number: int, payload: bytes) -> None:
        size = int.from_bytes(frames.exactly(payload, 4), "big") & frames.LARGEST_WINDOW
        if not size:
            raise Http2Error(frames.PROTOCOL_ERROR, "a window grew by nothing")
        if not number:
            self._sendable += size
            if self._sendable > frames.LARGEST_WINDOW:
                raise Http2Error(frames.FLOW_CONTROL_ERROR, "a window is too large")
        elif (stream := self.streams.get(number)) is not None:
            stream.widen(size)
        self._pump()
