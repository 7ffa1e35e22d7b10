"""Makes the secrets of an installation by compose, each once and at random: `make_secrets.py FOLDER [rotate]`.

FOLDER has a folder for each container, its volume, mounted there as /etc/penstock: keys/ (who is asking: the gateway
signs, the others verify), tls/ (its certificate) and secrets/ (URLs with passwords). `kept` is the volume of this
program alone: the authority's key, and the passwords. A certificate is made anew when less than a month of it is left,
or with `rotate`; the services follow the files while they run.
"""

import os
import secrets
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

SERVICES = ("gateway", "orchestrator", "embedding", "inference", "vector-search", "feature-store")
DATABASES = ("gateway", "inference")
OWNER = 10001
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 397
RENEWED_DAYS_BEFORE_END = 30
Pair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def write(file: Path, content: bytes | str, mode: int = 0o400) -> None:
    """Write a file for the services' user alone, whole or not at all."""
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    if os.geteuid() == 0:
        os.chown(part, OWNER, OWNER)
    part.chmod(mode)
    part.replace(file)


def pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certify(names: list[str], days: int, issuer: Pair | None, now: datetime) -> Pair:
    """Return a new key with its certificate for some names; the authority's own where there is no issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    signer, parent = (key, subject) if issuer is None else (issuer[0], issuer[1].subject)
    known = [x509.DNSName(name) for name in names]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([*known, x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, made.sign(signer, SHA256())


def authority(folder: Path, now: datetime) -> Pair:
    """Return the authority that certifies the services, made at first."""
    key_file, file = folder / "authority.key", folder / "authority.crt"
    if not (key_file.exists() and file.exists()):
        key, certificate = certify(["Penstock authority"], AUTHORITY_DAYS, None, now)
        write(key_file, pem(key))
        write(file, certificate.public_bytes(Encoding.PEM))
    key = load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "this program made it"
    return key, x509.load_pem_x509_certificate(file.read_bytes())


def ends_soon(file: Path, now: datetime) -> bool:
    """Return whether a certificate is missing, unreadable or about to end."""
    try:
        end = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return True
    return end < now + timedelta(days=RENEWED_DAYS_BEFORE_END)


def issue(folder: Path, service: str, issuer: Pair, now: datetime) -> None:
    """Write a new certificate of a service; the key last, as the files are read when one of them changes."""
    names = [service, f"{service}-2", "localhost"]
    key, certificate = certify(names, CERTIFICATE_DAYS, issuer, now)
    write(folder / "ca.crt", issuer[1].public_bytes(Encoding.PEM), 0o444)
    write(folder / "tls.crt", certificate.public_bytes(Encoding.PEM), 0o444)
    write(folder / "tls.key", pem(key))


def identity(kept: Path) -> tuple[bytes, bytes]:
    """Return the key that the gateway signs identities with and the one that they are verified with, made at first."""
    file = kept / "identity.pem"
    if not file.exists():
        write(file, pem(Ed25519PrivateKey.generate()))
    key = load_pem_private_key(file.read_bytes(), None)
    return file.read_bytes(), key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def password(kept: Path, name: str) -> str:
    """Return a password, made at first."""
    file = kept / f"{name}-password"
    if not file.exists():
        write(file, secrets.token_hex(24))
    return file.read_text()


def make(folder: Path, now: datetime, *, rotate: bool) -> None:
    """Make what is missing."""
    kept = folder / "kept"
    private, public = identity(kept)
    issuer = authority(kept, now)
    for service in SERVICES:
        place = folder / service
        for name in ("catalogue", "gateway", "secrets"):  # what is mounted below, and what start.py looks for
            (place / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        write(place / "keys/identity.pub.pem", public, 0o444)
        if rotate or ends_soon(place / "tls/tls.crt", now):
            issue(place / "tls", service, issuer, now)
    write(folder / "gateway/keys/identity.pem", private)
    for name in DATABASES:
        secret = password(kept, f"postgres-{name}")
        url = f"postgresql://{name}:{secret}@postgres:5432/{name}"
        write(folder / name / "secrets" / f"{name.upper()}_DATABASE_URL", url)
        write(folder / "postgres" / f"{name}-password", secret, 0o444)  # the user of its image is not ours
    secret = password(kept, "redis")
    write(folder / "gateway/secrets/GATEWAY_REDIS_URL", f"redis://:{secret}@redis:6379/0")
    lines = f"requirepass {secret}\nsave 60 1\nappendonly yes\nappendfsync everysec\ndir /var/lib/penstock\n"
    write(folder / "redis/redis.conf", lines)
    if os.geteuid() == 0:
        os.chown(folder / "redis-data", OWNER, OWNER)


if __name__ == "__main__":
    make(Path(sys.argv[1]), datetime.now(UTC), rotate=sys.argv[2:] == ["rotate"])
