"""Makes the secrets that an operator would have made: the identity key pair, and certificates of an authority."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that lives as long as a trial."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def fresh(cls) -> "Authority":
        """Return a new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder("penstock-trial", "penstock-trial", key).add_extension(x509.BasicConstraints(True, 0), True)
        return cls(key, made.sign(key, hashes.SHA256()))

    def write(self, folder: Path, names: Sequence[str]) -> dict[str, Path]:
        """Write tls.crt, tls.key and ca.crt for a holder of these names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        also = x509.SubjectAlternativeName([_name(name) for name in names])
        made = _builder(names[0], "penstock-trial", key).add_extension(also, False).sign(self.key, hashes.SHA256())
        files = {
            "tls.crt": made.public_bytes(Encoding.PEM),
            "tls.key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "ca.crt": self.certificate.public_bytes(Encoding.PEM),
        }
        return {name: write(folder / name, content) for name, content in files.items()}


def write_identity(folder: Path) -> None:
    """Write the key pair that internal tokens are signed and verified with."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write(folder / "identity.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write(folder / "identity.pub.pem", public)


def write(path: Path, content: bytes) -> Path:
    """Write a file that containers of another user can read: the folder above is the owner's alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)
    return path


def _builder(name: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject_name=named(name), issuer_name=named(issuer), public_key=key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - DAY).not_valid_after(now + DAY)


def _name(name: str) -> x509.GeneralName:
    if name.replace(".", "").isdigit():
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)
