"""What an operator can change in the pool."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, create_model
from pydantic_settings import BaseSettings, SettingsConfigDict
from servicekit.settings import Address, ServiceSettings


class Settings(ServiceSettings):
    """The settings of `inference`, from variables that begin with INFERENCE_."""

    model_config = SettingsConfigDict(env_prefix="INFERENCE_", frozen=True, extra="ignore")

    address: Address = "127.0.0.1:8084"
    metrics_address: Address = "127.0.0.1:9084"
    catalogue_file: Path = Field(Path("deploy/local/catalogue.yaml"), description="YAML file that declares the models")
    servers: dict[str, Address] = Field(
        default_factory=dict, description="addresses that replace those of the catalogue's servers, by name, as JSON"
    )
    tensor_memory_mib: int = Field(
        256, ge=0, le=65_536, description="memory in /dev/shm where Tritons of this machine read large tensors; 0: none"
    )
    version_database: Path = Field(
        Path(".penstock/data/inference/versions.db"), description="SQLite file of versions and roles"
    )
    database_url: SecretStr = Field(SecretStr(""), description="postgresql://... in place of the SQLite file")
    mlflow_url: str = Field("", pattern=r"^(https?://[^\s?#]+)?$", description="MLflow server to import versions from")
    mlflow_token: SecretStr = Field(SecretStr(""), description="what it wants as bearer token, if anything")

    @property
    def database(self) -> str:
        """The URL of the database; it may hold a password."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.version_database}"


def read_variables(names: Collection[str]) -> dict[str, SecretStr]:
    """Return the environment variables of these names that are set and not empty; for keys that a catalogue names."""
    fields: dict[str, Any] = {
        f"variable_{index}": (SecretStr | None, Field(None, validation_alias=name)) for index, name in enumerate(names)
    }
    loaded = create_model("Variables", __base__=_Variables, **fields)()
    values = (getattr(loaded, field) for field in fields)
    return {name: value for name, value in zip(names, values, strict=True) if value and value.get_secret_value()}


class _Variables(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=True)
