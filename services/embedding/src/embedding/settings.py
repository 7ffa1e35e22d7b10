"""What an operator can change in the embedding service; the environment prefix is `EMBEDDING_`."""

from pathlib import Path

from pydantic import Field, FilePath
from pydantic_settings import SettingsConfigDict
from servicekit.settings import Address, ServiceSettings


class Settings(ServiceSettings):
    """Sizes in bytes of UTF-8, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="EMBEDDING_")

    address: Address = "127.0.0.1:8083"
    metrics_address: Address = "127.0.0.1:9083"
    inference_address: Address = Field("127.0.0.1:8084", description="OIP gRPC server that runs the encoder")
    model: str = Field("minilm-l6", min_length=1, description="encoder, by its name in the inference catalogue")
    tokenizer_file: FilePath = Field(
        Path(".penstock/models/minilm-l6/tokenizer.json"), description="tokenizer.json of the encoder"
    )
    batch_texts: int = Field(32, ge=1, le=1024, description="most texts in one batch")
    batch_tokens: int = Field(2048, ge=256, le=1_048_576, description="most tokens in one batch, padding included")
    concurrent_batches: int = Field(2, ge=1, le=64, description="batches at the encoder at once")
    waiting_texts: int = Field(16_384, ge=2048, le=1_048_576, description="most texts that may wait for a batch")
    encode_timeout_s: float = Field(30.0, gt=0, le=600, description="longest time one batch may take")
    refresh_s: float = Field(10.0, ge=1, le=600, description="how often the encoder is asked for its fingerprint")
    cache_bytes: int = Field(64 * 1_048_576, ge=0, description="memory for cached vectors; 0 caches nothing")
    max_texts: int = Field(2048, ge=1, le=16_384, description="most texts in one request")
    max_text_bytes: int = Field(1_048_576, ge=1, description="longest text")
    max_request_bytes: int = Field(16 * 1_048_576, ge=1, description="all texts of a request together")
