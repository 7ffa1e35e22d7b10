"""Asks a service over gRPC whether it can do its work: `python -m servicekit.healthcheck HOST:PORT [--tls FOLDER]`.

Health checks run every few seconds in every container, and importing a gRPC library costs each 0.3 s of processor time.
So this is the one call `grpc.health.v1.Health/Check` in HTTP/2 frames (RFC 9113), with what Python itself has. It reads
DATA frames alone: a call that fails answers without one, so the header fields never need to be decoded.
"""

import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 2.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4
FRAME_HEAD_BYTES = 9
LARGEST_FRAME_BYTES = 1 << 14
MOST_FRAMES = 64
MESSAGE_HEAD_BYTES = 5
EMPTY_REQUEST = b"\0\0\0\0\0"
SERVING = b"\x08\x01"
"""HealthCheckResponse(status=SERVING), encoded."""


class Unhealthy(Exception):
    """The service cannot do its work, or does not answer; the message says which."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service listens; `tls` is the folder of tls.crt, tls.key and ca.crt where it wants mTLS."""

    host: str
    port: int
    tls: Path | None = None

    @classmethod
    def parse(cls, address: str, tls: Path | None = None) -> "Target":
        """Return the target of `HOST:PORT`; what listens on all addresses is asked on loopback. Raises Unhealthy."""
        host, _, port = address.rpartition(":")
        if not port.isdecimal():
            raise Unhealthy(f"{address!r} is no HOST:PORT")
        return cls("127.0.0.1" if host in {"", "0.0.0.0", "[::]"} else host.strip("[]"), int(port), tls)  # noqa: S104


def check(target: Target, timeout_s: float = TIMEOUT_S) -> None:
    """Return if the service says within `timeout_s` that it is serving; raise Unhealthy."""
    end = time.monotonic() + timeout_s
    try:
        with _connected(target, timeout_s) as connection, connection.makefile("rwb", buffering=0) as stream:
            connection.sendall(_request(target.host))
            message = _message(stream, connection, end)
    except OSError as error:
        raise Unhealthy(f"{target.host}:{target.port}: {error}") from error
    if message[MESSAGE_HEAD_BYTES:] != SERVING:
        raise Unhealthy(f"{target.host}:{target.port} does not say that it is serving")


def _connected(target: Target, timeout_s: float) -> socket.socket:
    context = None if target.tls is None else _context(target.tls)
    connection = socket.create_connection((target.host, target.port), timeout_s)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection)
    except OSError:
        connection.close()
        raise


def _context(tls: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls / "ca.crt"))
    context.check_hostname = False  # a service is asked inside its own container, under whatever name it has there
    context.load_cert_chain(tls / "tls.crt", tls / "tls.key")
    context.set_alpn_protocols(["h2"])
    return context


def _request(host: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": host,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    literals = [b"\0" + _text(name) + _text(value) for name, value in fields.items()]  # not indexed, RFC 7541 6.2.2
    return (
        PREFACE
        + _frame(SETTINGS, 0, 0, b"")
        + _frame(HEADERS, END_HEADERS, 1, b"".join(literals))
        + _frame(DATA, END_STREAM, 1, EMPTY_REQUEST)
    )


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("ascii")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _message(stream: socket.SocketIO, connection: socket.socket, end: float) -> bytes:
    """Return the response's message, empty where the call failed."""
    message = b""
    for kind, flags, payload in _frames(stream, connection, end):
        if kind == SETTINGS and not flags & ACK:
            connection.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            connection.sendall(_frame(PING, ACK, 0, payload))
        elif kind == DATA:
            message += payload
        if kind in {RST_STREAM, GOAWAY} or (kind in {DATA, HEADERS} and flags & END_STREAM):
            break
    return message


def _frames(stream: socket.SocketIO, connection: socket.socket, end: float) -> Iterator[tuple[int, int, bytes]]:
    for _ in range(MOST_FRAMES):
        connection.settimeout(max(end - time.monotonic(), 0.001))
        head = _read(stream, FRAME_HEAD_BYTES)
        if len(head) < FRAME_HEAD_BYTES:
            return
        length = int.from_bytes(head[:3], "big")
        if length > LARGEST_FRAME_BYTES:
            raise Unhealthy("what answers there does not speak HTTP/2")
        yield head[3], head[4], _read(stream, length)


def _read(stream: socket.SocketIO, count: int) -> bytes:
    read = b""
    while len(read) < count and (more := stream.read(count - len(read))):
        read += more
    return read


def _asked(arguments: Sequence[str]) -> Target:
    match arguments:
        case [address]:
            return Target.parse(address)
        case [address, "--tls", folder]:
            return Target.parse(address, Path(folder))
    raise Unhealthy("usage: python -m servicekit.healthcheck HOST:PORT [--tls FOLDER]")


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the service is healthy; otherwise say why in one line and return 1."""
    try:
        check(_asked(arguments))
    except Unhealthy as reason:
        sys.stdout.write(f"unhealthy: {reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
