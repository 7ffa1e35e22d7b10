"""What an operator can change in the gateway."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict
from servicekit.settings import Address, ServiceSettings

KEY_DATABASE = Path(".penstock/data/gateway/gateway.db")


class Settings(ServiceSettings):
    """Read from GATEWAY_* variables."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True, extra="ignore")

    address: Address = Field("127.0.0.1:8081", description="where the typed gRPC door listens")
    rest_address: Address = Field("127.0.0.1:8080", description="where the REST door listens")
    metrics_address: Address = "127.0.0.1:9081"
    orchestrator_address: Address = "127.0.0.1:8082"
    embedding_address: Address = "127.0.0.1:8083"
    inference_address: Address = "127.0.0.1:8084"
    vector_search_address: Address = "127.0.0.1:8085"
    feature_store_address: Address = "127.0.0.1:8086"
    key_database: Path = Field(KEY_DATABASE, description="SQLite file of tenants, projects and API keys")
    database_url: SecretStr = Field(SecretStr(""), description="postgresql://... in place of the SQLite file")
    configuration_file: Path = Field(
        Path(".penstock/gateway.yaml"), description="tenants, routes, identity providers and policies; followed live"
    )
    journal_folder: Path = Field(
        Path(".penstock/data/gateway/journal"), description="local folder of the ledger's journal; several may share it"
    )
    redis_url: SecretStr = Field(SecretStr(""), description="redis, rediss or unix address of shared limits")
    identity_private_key_file: Path = Field(
        Path(".penstock/keys/identity.pem"), description="PEM file of the Ed25519 key that signs identities"
    )
    identity_lifetime_s: float = Field(300, ge=30, le=3600, description="seconds that a signed identity lives")
    key_outage_s: float = Field(
        300, ge=0, le=3600, description="seconds that known keys work on while the database is away; 0 refuses them"
    )
    default_timeout_s: float = Field(60, gt=0, le=600, description="seconds a REST request may take if it does not say")
    unknown_fields: Literal["pass", "refuse", "ignore"] = Field(
        "pass", description="what becomes of fields that OpenAI's schema does not have; pass: a model's host gets them"
    )
    max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024, le=60 * 1024 * 1024, description="largest REST body, bytes")

    @property
    def database(self) -> str:
        """The URL of the database; it may hold a password."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.key_database}"
