"""What can be changed from the environment: where things are kept, which ports are used, whom to call."""

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[3]
"""The checkout."""


class Settings(BaseSettings):
    """Settings of the command line; each is a variable `PENSTOCK_...`, or a line of the stack's `dev.env`."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", frozen=True, extra="ignore")

    state: Path = Field(ROOT / ".penstock", description="data, logs, keys and traces of the stack")
    toolchain: Path = Field(ROOT / ".penstock", description="environments and the built model repository")
    catalogue: Path = Field(ROOT / "deploy/local/catalogue.yaml", description="models and upstreams that are served")
    configuration: Path = Field(
        ROOT / "deploy/local/gateway.yaml", description="what the gateway's configuration is at first"
    )
    port_offset: int = Field(0, ge=0, le=40_000, description="added to every default port")
    ports: dict[str, int] = Field(default_factory=dict, description='ports by name, such as {"gateway.rest": 9000}')
    otlp_endpoint: str | None = Field(None, description="OTLP/gRPC collector for the spans of every service")
    trace_ratio: float = Field(1.0, ge=0, le=1, description="share of requests that are traced")
    ready_timeout_s: float = Field(120, gt=0, description="seconds `penstock up` waits for every process")
    url: str = Field("http://127.0.0.1:8080", description="the gateway's REST address")
    api_key: SecretStr = Field(SecretStr(""), description="key the gateway is called with")
    admin_key: SecretStr = Field(SecretStr(""), description="key the gateway is administered with")
    pool: str = Field("", description="host:port of the inference pool's gRPC; empty: that of the local stack")
    identity_key: Path | None = Field(None, description="key that internal tokens are signed with; none: the stack's")

    @property
    def models(self) -> Path:
        """The Triton model repository."""
        return self.toolchain / "models"

    @property
    def trace_file(self) -> Path:
        """Where every service appends its spans."""
        return self.state / "traces" / "spans.jsonl"


def load() -> Settings:
    """Return the settings, with address and key of the local stack where the environment names none."""
    first = Settings()
    return Settings(_env_file=first.state / "dev.env")


def inherited() -> dict[str, str]:
    """Return the environment that every process of the stack inherits: it may hold settings of services, too."""
    return dict(os.environ)  # noqa: TID251  this is where the command line reads it
