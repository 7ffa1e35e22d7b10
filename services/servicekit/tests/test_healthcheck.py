"""The health check says what the service says, over gRPC, with and without mTLS, and is never kept waiting."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from servicekit.healthcheck import Target, Unhealthy, check, main
from servicekit.rpc.inner_server import InnerServer
from servicekit.rpc.server import listen
from servicekit.testing import authenticate
from servicekit.tls import TlsFiles

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def answering(status: int | None, tls: TlsFiles | None = None) -> AsyncIterator[int]:
    """Run a server that has this health, or no health service at all; yield its port."""
    if status is None:
        server = InnerServer(lambda _: None, "127.0.0.1:0", None)
    else:
        listening = listen([], authenticate, "127.0.0.1:0", tls, inner=True)
        assert isinstance(listening.server, InnerServer)
        server = listening.server
        await listening.health.set("", status)
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop(0)


async def asked(port: int, tls: Path | None = None) -> None:
    await asyncio.to_thread(check, Target("127.0.0.1", port, tls), 5.0)


async def test_who_serves_is_healthy() -> None:
    async with answering(SERVING) as port:
        await asked(port)
        assert await asyncio.to_thread(main, [f"0.0.0.0:{port}"]) == 0


@pytest.mark.parametrize("status", [NOT_SERVING, None])
async def test_who_does_not_serve_is_not(status: int | None) -> None:
    async with answering(status) as port:
        with pytest.raises(Unhealthy, match="does not say that it is serving"):
            await asked(port)


def certificate_folder(folder: Path) -> TlsFiles:
    """Make certificates as compose does, for a container called `thing`."""
    program = Path(__file__).resolve().parents[3] / "deploy/images"
    sys.path.insert(0, str(program))
    try:
        import make_secrets  # noqa: PLC0415  a program of the images, no package
    finally:
        sys.path.remove(str(program))
    now = datetime.now(UTC)
    make_secrets.issue(folder, "thing", make_secrets.authority(folder.parent / "kept", now), now)
    return TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


async def test_mtls_needs_the_certificate_of_the_same_authority(tmp_path: Path) -> None:
    files = certificate_folder(tmp_path / "one" / "tls")
    certificate_folder(tmp_path / "two" / "tls")
    async with answering(SERVING, files) as port:
        await asked(port, tmp_path / "one" / "tls")
        for stranger in (None, tmp_path / "two" / "tls", tmp_path / "nowhere"):
            with pytest.raises(Unhealthy):
                await asked(port, stranger)


async def test_nobody_there_garbage_and_silence_are_unhealthy() -> None:
    with pytest.raises(Unhealthy, match="refused"):
        await asked(1)

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)
        writer.close()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    for behaviour in (garbage, silence):
        server = await asyncio.start_server(behaviour, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            begun = time.monotonic()
            with pytest.raises(Unhealthy):
                await asyncio.to_thread(check, Target("127.0.0.1", port), 0.5)
            assert time.monotonic() - begun < 5


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["a:1", "--tls"], ["a:1", "--other", "x"]])
def test_a_wrong_command_line_is_unhealthy_and_says_why(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().out.startswith("unhealthy: ")
