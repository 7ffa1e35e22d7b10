"""mTLS from mounted files, read again when they change."""

from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate chain, its key, and the authority every peer must be certified by."""

    certificate: Path
    key: Path
    authority: Path

    def generation(self) -> tuple[int, ...]:
        """Return a value that changes when one of the files does."""
        return tuple(path.stat().st_mtime_ns for path in (self.certificate, self.key, self.authority))

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
