"""mTLS from mounted files, read again when they change."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from servicekit.errors import InvalidInput

Loaded = TypeVar("Loaded")
log = logging.getLogger(__name__)


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

    def client_context(self) -> ssl.SSLContext:
        """Return a context made of the files as they are now, which demands a server certified for its name."""
        return self._context(ssl.Purpose.SERVER_AUTH)

    def server_contexts(self) -> Callable[[], ssl.SSLContext]:
        """Return what gives each new connection its context; it follows the files, and demands a client certificate."""
        generation, context = self.generation(), self._context(ssl.Purpose.CLIENT_AUTH)

        def current() -> ssl.SSLContext:
            nonlocal generation, context
            try:
                if (now := self.generation()) != generation:
                    context, generation = self._context(ssl.Purpose.CLIENT_AUTH), now
            except OSError:  # half-written by a rotation, or one file ahead of the others: the old ones still serve
                log.debug("the certificate files cannot be used yet")
            return context

        return current

    def _context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        context = ssl.create_default_context(purpose, cafile=self.authority)
        context.load_cert_chain(self.certificate, self.key)
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        return context


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
