"""An upstream whose certificate is not right is a failure, and sees neither the key nor the question."""

import asyncio
import datetime
import logging
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from inference.adapters.openai import OpenAIGenerator, OpenAIUpstream
from inference.core.conversation import Turn
from inference.core.generation import Order
from servicekit.errors import Unavailable

KEY = "sk-never-to-be-seen"
DAY = datetime.timedelta(days=1)


def certificate(folder: Path, host: str, age: datetime.timedelta) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS for a host, valid for a day since `age` ago, and the file that whoever trusts it needs."""
    key, since = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC) - age
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(7).not_valid_before(since).not_valid_after(since + DAY)
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    trusted, secret = folder / "trusted.pem", folder / "key.pem"
    trusted.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, secret)
    return context, trusted


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
@pytest.mark.parametrize(
    ("host", "age", "trust"),
    [("localhost", DAY / 2, False), ("localhost", 3 * DAY, True), ("elsewhere.example", DAY / 2, True)],
    ids=["untrusted", "expired", "another host's"],
)
async def test_a_wrong_certificate_is_a_failure_and_nothing_is_sent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    host: str,
    age: datetime.timedelta,
    trust: bool,
    streaming: bool,
) -> None:
    context, trusted = certificate(tmp_path, host, age)
    if trust:
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(4096))
        writer.close()

    caplog.set_level(logging.DEBUG)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
        async with OpenAIUpstream(url, KEY) as upstream:
            generator, order = OpenAIGenerator(upstream, "m", "model"), Order([Turn("user", "Hi")])
            with pytest.raises(Unavailable) as caught:
                if not streaming:
                    await generator.complete(order, 5.0)
                async for _ in generator.generate(order, 5.0):
                    pass
    assert caught.value.reason == "backend_failed"
    assert not any(received), "nothing may be sent to who is not who he says"
    assert KEY not in caplog.text + caught.value.message
