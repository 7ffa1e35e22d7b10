"""What an operator can change in the orchestrator; the environment prefix is `ORCHESTRATOR_`."""

from pathlib import Path

from pydantic import Field, FilePath
from pydantic_settings import SettingsConfigDict
from servicekit.settings import Address, ServiceSettings


class Settings(ServiceSettings):
    """Times in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="ORCHESTRATOR_")

    address: Address = "127.0.0.1:8082"
    metrics_address: Address = "127.0.0.1:9082"
    embedding_address: Address = Field("127.0.0.1:8083", description="the embedding service")
    inference_address: Address = Field("127.0.0.1:8084", description="the inference service")
    vector_search_address: Address = Field("127.0.0.1:8085", description="the vector-search service")
    encoder: str = Field("", description="encoder, by its catalogue name; empty: the embedding service's default")
    pipeline_file: Path | None = Field(None, description="pipeline to run; default: rag.yaml of the package")
    prompts_dir: Path | None = Field(None, description="folder of the prompt templates; default: that of the package")
    model: str = Field("", description="generating model when the caller names none; empty: the pipeline's own")
    reranker: str = Field("", description="model that ranks passages again; empty: the pipeline's own, if it has one")
    tokenizer_file: FilePath = Field(
        Path(".penstock/models/minilm-l6/tokenizer.json"),
        description="tokenizer.json that budgets and chunks count with",
    )
    default_deadline_s: float = Field(30.0, gt=0, le=600, description="for callers without a deadline")
    provenance_file: Path = Field(Path(".penstock/data/orchestrator/provenance.db"), description="SQLite file")
    provenance_retention_days: float = Field(90.0, ge=0, description="how long provenance is kept; 0: for ever")
    chunk_tokens: int = Field(220, ge=32, le=8192, description="most tokens of a chunk; below the encoder's maximum")
    ingest_concurrency: int = Field(8, ge=1, le=256, description="documents of one call in the works at once")
    embed_timeout_s: float = Field(60.0, gt=0, le=600, description="longest time one call to embed chunks may take")
    store_timeout_s: float = Field(60.0, gt=0, le=600, description="longest time one call about a document may take")
    parse_memory_mib: int = Field(768, ge=256, le=65_536, description="memory of the parsing process")
    parse_cpu_s: int = Field(20, ge=1, le=600, description="CPU time one document may take to parse")
    parse_wall_s: float = Field(30.0, gt=0, le=600, description="wall time one document may take to parse")
    parse_pages: int = Field(2_000, ge=1, description="most pages of a PDF")
    parse_chars: int = Field(10_000_000, ge=1, description="most characters of text of a page or PDF")
