"""What an operator can change in every service; each service subclasses it with its own prefix and fields."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from servicekit.tls import TlsFiles

Address = Annotated[str, StringConstraints(pattern=r"^[^\s:]+:\d{1,5}$")]
"""A host and a port, such as `127.0.0.1:8083`."""


class ServiceSettings(BaseSettings):
    """The settings every service has. A wrong value stops the start with the variable's name."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    address: Address = Field(description="where gRPC listens")
    metrics_address: Address = Field(description="where Prometheus metrics are served over HTTP, under /metrics")
    drain_s: float = Field(10.0, ge=0, le=600, description="seconds that running calls get to end at shutdown")
    identity_public_key_file: Path = Field(
        Path(".penstock/keys/identity.pub.pem"), description="PEM file of the gateway's Ed25519 public key"
    )
    tls_certificate_file: Path | None = Field(None, description="PEM certificate chain; turns mTLS on")
    tls_key_file: Path | None = Field(None, description="PEM private key of the certificate")
    tls_ca_file: Path | None = Field(None, description="PEM certificates of the authority that peers must have")
    otlp_endpoint: str | None = Field(None, description="OTLP/gRPC collector, such as http://127.0.0.1:4317")
    trace_file: Path | None = Field(None, description="file that finished spans are appended to, as JSON lines")
    trace_ratio: float = Field(1.0, ge=0, le=1, description="share of new traces that are recorded")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        files = [self.tls_certificate_file, self.tls_key_file, self.tls_ca_file]
        if any(files) and not all(files):  # or mTLS would be off without a word
            raise ValueError("TLS_CERTIFICATE_FILE, TLS_KEY_FILE and TLS_CA_FILE belong together: one is not set")
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """The mounted certificate files, or None when connections are in the clear."""
        if self.tls_certificate_file is None or self.tls_key_file is None or self.tls_ca_file is None:
            return None
        return TlsFiles(self.tls_certificate_file, self.tls_key_file, self.tls_ca_file)
