"""What an operator can change in the feature store; environment variables with the prefix FEATURE_STORE_."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from servicekit.settings import Address, ServiceSettings


class Settings(ServiceSettings):
    """Settings of the feature store; relative paths start at the working directory."""

    model_config = SettingsConfigDict(env_prefix="FEATURE_STORE_", frozen=True)

    address: Address = Field("127.0.0.1:8086", description="where gRPC listens")
    metrics_address: Address = Field("127.0.0.1:9086", description="where metrics are served over HTTP")
    repository: Path = Field(Path("services/feature-store/feature_repo"), description="folder of the Feast repository")
    state: Path = Field(Path(".penstock/feature-store"), description="folder of registry, online values and catalogue")
    sample_tenant: str = Field("demo", max_length=128, description="tenant that gets the sample rows; empty: nobody")
    catalogue_check_s: float = Field(
        5.0, ge=0.1, le=3_600, description="seconds between two looks for changed definitions"
    )
