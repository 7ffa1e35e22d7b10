"""mTLS from files: strangers are refused, and a rotation fails no call."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from penstock.embedding.v1 import embedding_pb2 as pb
from penstock.embedding.v1 import embedding_pb2_grpc as pb_grpc
from servicekit.errors import Unavailable
from servicekit.identity import Identity, Verifier
from servicekit.rpc import Channel, Service, TlsFiles, client
from servicekit.rpc.server import listen
from servicekit.testing import PUBLIC_KEY_PEM, caller
from servicekit.tls import BadCertificate


class Authority:
    """Issues certificates for 127.0.0.1."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._signed(self.name, self.key, ca=True)

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool, begun: timedelta = timedelta(minutes=5)
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - begun)
            .not_valid_after(now - begun + timedelta(hours=1, minutes=5))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        )
        return builder.sign(self.key, SHA256())

    def issue(self, folder: Path, begun: timedelta = timedelta(minutes=5)) -> TlsFiles:
        """Write a fresh certificate with its key and the authority's certificate into the folder."""
        folder.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "service")])
        files = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        files.certificate.write_bytes(self._signed(name, key, ca=False, begun=begun).public_bytes(Encoding.PEM))
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        files.authority.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return files


class Embedding(pb_grpc.EmbeddingServiceServicer):
    """Answers with what was asked for."""

    async def Embed(self, request: pb.EmbedRequest, context: object) -> pb.EmbedResponse:
        return pb.EmbedResponse(encoder=pb.Encoder(model=request.model))


async def authenticate(credential: str) -> Identity:
    return Verifier(PUBLIC_KEY_PEM).verify(credential)


SERVICE = Service(
    "penstock.embedding.v1.EmbeddingService",
    pb_grpc.add_EmbeddingServiceServicer_to_server,
    Embedding(),
    {"Embed": "embeddings", "GetEncoder": ""},
)


async def test_peers_of_the_authority_talk_and_a_rotation_fails_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CERTIFICATE_CHECK_S", 0.0)
    authority = Authority()
    files = authority.issue(tmp_path / "ours")
    listening = listen([SERVICE], authenticate, "127.0.0.1:0", files, inner=True)
    server, port = listening.server, listening.port
    await server.start()
    async with Channel(f"127.0.0.1:{port}", files) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel.grpc)
        with caller():
            for rotation in range(4):
                for number in range(5):
                    name = f"{rotation}-{number}"
                    assert (await channel.call(stub.Embed, pb.EmbedRequest(model=name))).encoder.model == name
                authority.issue(tmp_path / "ours")
    await server.stop(0)


async def test_strangers_are_refused(tmp_path: Path) -> None:
    files = Authority().issue(tmp_path / "ours")
    stranger = Authority().issue(tmp_path / "theirs")
    mixed = TlsFiles(stranger.certificate, stranger.key, files.authority)
    listening = listen([SERVICE], authenticate, "127.0.0.1:0", files, inner=True)
    server, port = listening.server, listening.port
    await server.start()
    for tls in (None, mixed, stranger):
        async with Channel(f"127.0.0.1:{port}", tls) as channel:
            with caller(), pytest.raises(Unavailable):
                await channel.call(pb_grpc.EmbeddingServiceStub(channel.grpc).Embed, pb.EmbedRequest(), timeout_s=3)
    await server.stop(0)


def test_a_good_certificate_passes_the_check(tmp_path: Path) -> None:
    Authority().issue(tmp_path / "good").check(datetime.now(UTC))


@pytest.mark.parametrize("begun", [timedelta(days=2), timedelta(days=-2)])
def test_an_expired_or_early_certificate_is_named_with_its_days(tmp_path: Path, begun: timedelta) -> None:
    files = Authority().issue(tmp_path / "old", begun)
    with pytest.raises(BadCertificate, match=r"tls\.crt is valid from 20\d\d-\d\d-\d\d to 20.*, and today is 20"):
        files.check(datetime.now(UTC))


def test_what_does_not_belong_together_is_named(tmp_path: Path) -> None:
    good, other = Authority().issue(tmp_path / "good"), Authority().issue(tmp_path / "other")
    now = datetime.now(UTC)
    with pytest.raises(BadCertificate, match=r"other/tls\.key is not the key of the certificate"):
        TlsFiles(good.certificate, other.key, good.authority).check(now)
    with pytest.raises(BadCertificate, match=r"good/tls\.crt was not issued by the authority .*other/ca\.crt"):
        TlsFiles(good.certificate, good.key, other.authority).check(now)
    with pytest.raises(BadCertificate, match=r"tls\.key is no PEM file of the kind"):
        TlsFiles(good.key, good.key, good.authority).check(now)
    with pytest.raises(BadCertificate, match=r"nowhere cannot be read: No such file"):
        TlsFiles(tmp_path / "nowhere", good.key, good.authority).check(now)
