"""The HTTP client against servers that say exactly what a test tells them to."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from inference.adapters.http_client import ConnectTimedOut, Head, HttpFailed, HttpHost
from servicekit.testing import eventually

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Scripted:
    """A server that answers each request of a connection with the next bytes of a script."""

    def __init__(self, *answers: bytes, then_close: bool = False, before: bytes = b"") -> None:
        self.answers = list(answers)
        self.then_close = then_close
        self.before = before
        self.requests: list[bytes] = []
        self.connections = self.open = 0
        self.sent = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.writers.append(writer)
        writer.write(self.before)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0) if self.answers else OK
                for start in range(0, len(answer), 65536):
                    writer.write(answer[start : start + 65536])
                    await writer.drain()
                    self.sent += 65536
                if self.then_close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.open -= 1

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=tls)
        scheme = "https" if tls else "http"
        try:
            yield f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}"
        finally:
            for writer in self.writers:
                writer.close()
            server.close()
            await eventually(lambda: self.open == 0)


@asynccontextmanager
async def host(url: str, headers: dict[str, str] | None = None) -> AsyncIterator[HttpHost]:
    opened = HttpHost(url, headers or {})
    try:
        yield opened
    finally:
        opened.close()


async def post(opened: HttpHost, body: bytes = b"{}", timeout_s: float = 2.0) -> tuple[Head, bytes]:
    connection = await opened.connection(2.0)
    try:
        head = await connection.request(opened.written(body, b"X-A: b\r\n"), timeout_s)
        parts = []
        while part := await connection.read(timeout_s):
            parts.append(part)
        return head, b"".join(parts)
    finally:
        opened.release(connection)


async def test_sends_what_it_is_given_and_keeps_the_connection() -> None:
    server = Scripted()
    async with server.running() as url, host(f"{url}/v1/a b?", {"Authorization": "Bearer k"}) as opened:
        for _ in range(3):
            head, body = await post(opened)
    assert (head.status, head.content_type, body) == (200, "text/plain", b"ok")
    place = url.removeprefix("http://")
    assert (
        server.requests[0]
        == (
            f"POST /v1/a%20b HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer k\r\n"
            "X-A: b\r\nContent-Length: 2\r\n\r\n{}"
        ).encode()
    )
    assert server.connections == 1


GOOD = {
    "early hints": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    "chunks": CHUNKED + b"1\r\no\r\n1;ext=1\r\nk\r\n0\r\nTrailer: x\r\n\r\n",
}


@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD.keys())
async def test_reads_what_http_allows_however_it_is_cut(answer: bytes) -> None:
    server = Scripted(answer, answer)
    async with server.running() as url, host(url) as opened:
        assert (await post(opened))[1] == b"ok"
        assert (await post(opened))[1] == b"ok"
    assert server.connections == 1


async def test_a_body_may_end_with_its_connection() -> None:
    server = Scripted(b"HTTP/1.1 200 OK\r\n\r\nok", then_close=True)
    async with server.running() as url, host(url) as opened:
        assert (await post(opened))[1] == b"ok"
        assert (await post(opened))[1] == b"ok"
    assert server.connections == 2


BAD = {
    "garbage": b"\x00\xff\x00garbage\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "closed at once": b"",
    "cut in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "cut in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
    "cut in a chunk": CHUNKED + b"9\r\nok",
    "cut before the last chunk": CHUNKED + b"2\r\nok\r\n",
    "wrong chunk": CHUNKED + b"zz\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "length and chunks": CHUNKED[:-2] + b"Content-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200_000,
    "endless header": b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 2_000_000,
    "endless trailers": CHUNKED + b"2\r\nok\r\n0\r\n" + b"X-A: b\r\n" * 200_000,
    "endless hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100_000,
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
async def test_what_is_no_response_or_not_all_of_it_is_a_failure(answer: bytes) -> None:
    server = Scripted(answer, then_close=True)
    async with server.running() as url, host(url) as opened:
        with pytest.raises(HttpFailed):
            await post(opened)
        assert (await post(opened))[1] == b"ok"
    assert server.connections == 2


async def test_what_is_said_after_the_answer_is_not_taken_for_the_next() -> None:
    server = Scripted(OK + OK.replace(b"ok", b"no"))
    async with server.running() as url, host(url) as opened:
        assert (await post(opened))[1] == b"ok"
        assert (await post(opened))[1] == b"ok"
    assert server.connections == 2


async def test_what_is_said_between_requests_ends_the_connection() -> None:
    server = Scripted()
    async with server.running() as url, host(url) as opened:
        await post(opened)
        server.writers[0].write(OK.replace(b"ok", b"no"))
        kept = opened._idle[0]
        await eventually(lambda: not kept.reusable())
        assert (await post(opened))[1] == b"ok"
    assert server.connections == 2


async def test_what_is_said_before_any_request_is_no_answer() -> None:
    server = Scripted(before=OK.replace(b"ok", b"no"))
    async with server.running() as url, host(url) as opened:
        connection = await opened.connection(2.0)
        await eventually(lambda: not connection.reusable())
        with pytest.raises(HttpFailed):
            await connection.request(opened.written(b"{}", b""), 2.0)
        connection.close()


async def test_a_host_that_closes_is_believed() -> None:
    server = Scripted(OK.replace(b"Content-Type", b"Connection: close\r\nContent-Type"))
    async with server.running() as url, host(url) as opened:
        await post(opened)
        await post(opened)
    assert server.connections == 2


async def test_a_body_left_in_the_middle_closes_the_connection() -> None:
    server = Scripted(CHUNKED + b"2\r\nok\r\n")
    async with server.running() as url, host(url) as opened:
        connection = await opened.connection(2.0)
        await connection.request(opened.written(b"{}", b""), 2.0)
        opened.release(connection)
        assert (await post(opened))[1] == b"ok"
    assert server.connections == 2


async def test_waiting_ends_in_time() -> None:
    server = Scripted(CHUNKED + b"2\r\nok\r\n")
    async with server.running() as url, host(url) as opened:
        connection = await opened.connection(2.0)
        await connection.request(opened.written(b"{}", b""), 2.0)
        assert await connection.read(2.0) == b"ok"
        with pytest.raises(TimeoutError):
            await connection.read(0.05)
        opened.release(connection)


async def test_a_reader_who_is_slow_slows_the_host_down() -> None:
    size = 64 * 1024 * 1024
    server = Scripted(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    async with server.running() as url, host(url) as opened:
        connection = await opened.connection(2.0)
        await connection.request(opened.written(b"{}", b""), 2.0)
        sent = -1

        def settled() -> bool:
            nonlocal sent
            before, sent = sent, server.sent
            return before == sent

        await eventually(settled)
        assert server.sent < size / 2
        read = 0
        while part := await connection.read(2.0):
            read += len(part)
        assert read == size
        opened.release(connection)


async def test_a_host_that_answers_before_it_has_read_is_heard_and_left() -> None:
    left, ended = asyncio.Event(), asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"200 OK", b"413 Too Large"))
        await left.wait()
        writer.close()
        ended.set()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server, host(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as opened:
        connection = await opened.connection(2.0)
        head = await connection.request(opened.written(b"x" * 64 * 1024 * 1024, b""), 2.0)
        assert head.status == 413
        assert await connection.read(2.0) == b"ok"
        assert not connection.reusable()
        opened.release(connection)
        left.set()
        await ended.wait()


async def test_a_host_that_does_not_finish_the_handshake_is_given_up() -> None:
    async with Scripted().running() as url, host(url.replace("http", "https")) as opened:
        with pytest.raises(ConnectTimedOut):
            await opened.connection(0.1)


@pytest.mark.parametrize("key", ["a\r\nX-Evil: 1", "a\nb", "ключ", "a\x00"])
def test_a_header_cannot_bring_another(key: str) -> None:
    with pytest.raises(ValueError, match="none may hold"):
        HttpHost("http://127.0.0.1:1/v1", {"Authorization": f"Bearer {key}"})


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS for `localhost` and the file that whoever trusts it needs."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(7).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    trusted, secret = tmp_path / "trusted.pem", tmp_path / "key.pem"
    trusted.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, secret)
    return context, trusted


async def test_a_certificate_has_to_be_trusted_and_to_name_the_host(
    certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = certificate
    async with Scripted().running(context) as url:
        async with host(url) as opened:
            with pytest.raises(HttpFailed):
                await post(opened)
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        async with host(url) as opened:
            assert (await post(opened))[1] == b"ok"
        async with host(url.replace("localhost", "127.0.0.1")) as opened:
            with pytest.raises(HttpFailed):
                await post(opened)
