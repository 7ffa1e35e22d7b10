"""mTLS from mounted files, read again when they change."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from servicekit.errors import InvalidInput

Loaded = TypeVar("Loaded")


class BadCertificate(InvalidInput):
    """The mounted certificate, key or authority cannot be used; the message says which file and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate chain, its key, and the authority every peer must be certified by."""

    certificate: Path
    key: Path
    authority: Path

    def generation(self) -> tuple[int, ...]:
        """Return a value that changes when one of the files does."""
        return tuple(path.stat().st_mtime_ns for path in (self.certificate, self.key, self.authority))

    def check(self, now: datetime) -> None:
        """Raise BadCertificate unless certificate and key belong together, are the authority's, and are valid `now`."""
        certificates = [_readable(file, x509.load_pem_x509_certificates) for file in (self.certificate, self.authority)]
        own, authorities = certificates[0][0], certificates[1]
        key = _readable(self.key, lambda pem: load_pem_private_key(pem, None))
        for file, each in ((self.certificate, own), *((self.authority, each) for each in authorities)):
            if not each.not_valid_before_utc <= now <= each.not_valid_after_utc:
                first, last = each.not_valid_before_utc, each.not_valid_after_utc
                raise BadCertificate(f"{file} is valid from {_day(first)} to {_day(last)}, and today is {_day(now)}")
        if key.public_key() != own.public_key():
            raise BadCertificate(f"{self.key} is not the key of the certificate {self.certificate}")
        chain = [*certificates[0][1:], *authorities]
        if not any(_issued(own, issuer) for issuer in chain):
            raise BadCertificate(f"{self.certificate} was not issued by the authority {self.authority}")

    def client_credentials(self) -> grpc.ChannelCredentials:
        """Return credentials made of the files as they are now; raise OSError when one cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.authority.read_bytes(),
            private_key=self.key.read_bytes(),
            certificate_chain=self.certificate.read_bytes(),
        )

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files from one handshake to the next and demand a client certificate."""
        loaded = [self.generation()]

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            try:
                generation = self.generation()
                if generation == loaded[0]:
                    return None
                configuration = self._server_configuration()
            except OSError:  # half-written by a rotation: keep the old ones until the next handshake
                return None
            loaded[0] = generation
            return configuration

        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(),
            fetch,  # type: ignore[arg-type]  # None keeps the old ones; the stubs do not know
            require_client_authentication=True,
        )

    def _server_configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=self.authority.read_bytes())


def _readable(file: Path, load: Callable[[bytes], Loaded]) -> Loaded:
    try:
        return load(file.read_bytes())
    except OSError as error:
        raise BadCertificate(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise BadCertificate(f"{file} is no PEM file of the kind that belongs there") from error


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()
