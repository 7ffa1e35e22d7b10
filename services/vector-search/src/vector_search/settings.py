"""What an operator can change in vector-search."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict
from servicekit.settings import Address, ServiceSettings


class Settings(ServiceSettings):
    """Read from the environment, with the prefix `VECTOR_SEARCH_`."""

    model_config = SettingsConfigDict(env_prefix="VECTOR_SEARCH_", frozen=True, extra="ignore")

    address: Address = "127.0.0.1:8085"
    metrics_address: Address = "127.0.0.1:9085"
    data_dir: Path = Field(
        Path(".penstock/data/vector-search"), description="directory of the log and of the index; one process owns it"
    )
    milvus_url: SecretStr = Field(
        SecretStr(""),
        description="a Milvus server in place of Milvus Lite in data_dir: http(s)://[USER:PASSWORD@]HOST:PORT[/DATABASE]",
    )
    search_threads: int = Field(2, ge=1, le=16, description="threads that search and read the log")
    exact_rows: int = Field(
        10_000, ge=0, le=100_000, description="chunks up to which a knowledge base is searched in memory; 0: none is"
    )
    exact_bytes: int = Field(
        67_108_864, ge=0, le=2**40, description="bytes of all vectors in memory, the least recently used dropped first"
    )
    chunk_cache_bytes: int = Field(16_777_216, ge=0, le=2**40, description="bytes of chunks kept for the next search")
