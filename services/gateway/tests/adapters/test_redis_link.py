"""How Redis is reached: by a password, a socket of this machine, or TLS whose certificate has to be right."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from gateway.adapters.redis_link import RedisLink, RedisUnavailable
from gateway_limit_fakes import redis_server

PONG = b"PONG"


async def ask(url: str) -> bytes:
    """Return what Redis at this address says to a ping."""
    link = RedisLink(url, timeout_s=5)
    try:
        answer: bytes = await link.ping()
        return answer
    finally:
        link.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a certificate for `localhost`, which is its own authority, and of its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(7).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    shown, secret = tmp_path / "redis.pem", tmp_path / "redis.key"
    shown.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return shown, secret


async def test_tls_is_spoken_to_a_server_whose_certificate_is_trusted_and_names_it(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, secret = certificate
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with redis_server(tmp_path) as plain:
        port = plain.port + 1
        options = ("--tls-port", str(port), "--tls-cert-file", str(shown), "--tls-key-file", str(secret))
        plain.kill()
        with redis_server(tmp_path, *options, "--tls-ca-cert-file", str(shown), "--tls-auth-clients", "no"):
            with pytest.raises(RedisUnavailable):
                await ask(f"rediss://localhost:{port}/0")
            monkeypatch.setenv("SSL_CERT_FILE", str(shown))
            assert await ask(f"rediss://localhost:{port}/0") == PONG
            with pytest.raises(RedisUnavailable):
                await ask(f"rediss://127.0.0.1:{port}/0")


async def test_a_socket_of_this_machine_will_do(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--unixsocket", str(tmp_path / "redis.sock")):
        assert await ask(f"unix://{tmp_path}/redis.sock") == PONG


async def test_a_password_opens_and_a_wrong_one_is_refused_without_being_shown(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "open sesame") as server:
        address = f"127.0.0.1:{server.port}/0"
        assert await ask(f"redis://:open%20sesame@{address}") == PONG
        with pytest.raises(RedisUnavailable) as refused:
            await ask(f"redis://:close%20sesame@{address}")
        assert "sesame" not in str(refused.value)
        with pytest.raises(RedisUnavailable):
            await ask(f"redis://{address}")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:6379", ""])
def test_an_address_of_something_else_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="redis://"):
        RedisLink(url, timeout_s=1)
