"""Reads the catalogue file, checks it as a whole, and says where it is wrong."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from inference.adapters.openai import Patience
from inference.adapters.residency_entry import ResidencyEntry
from inference.adapters.triton_golden import GoldenInvalid, parse_golden, read_golden
from inference.core.capabilities import ALL, HOSTED, PLAIN
from inference.core.capacity import USUAL_OBJECTIVE, Kind, Objective
from inference.core.catalogue import Model, Price, Provider, QueueLimits, Task
from inference.core.generation import MAX_STOP_CHARACTERS, MAX_STOPS, Sampling
from inference.core.prompts import PromptFormat
from inference.core.replica import Timing

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
"""What may name a model: no colon, which marks a pipeline at the gateway."""


class CatalogueError(ValueError):
    """The catalogue is wrong; the message has a line per mistake, each with the path of its field."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Address = Annotated[str, Field(pattern=r"^[^\s/]+:\d{1,5}$", description="host:port of its gRPC")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class KubernetesEntry(_Entry):
    """A Service whose ready pods are the replicas."""

    service: Label
    namespace: Label
    port: int = Field(ge=1, le=65_535, description="of the pods' gRPC")


class ServerEntry(_Entry):
    """A Triton server: one process or several alike, which are its replicas."""

    address: Address | None = None
    addresses: list[Address] | None = Field(None, min_length=1, max_length=1000)
    dns: Address | None = Field(None, description="host:port; every address of the name is a replica")
    kubernetes: KubernetesEntry | None = None
    probe_period_s: float = Field(1.0, ge=0.1, le=60, description="between looks at a replica")
    golden_period_s: float = Field(10.0, ge=0.1, le=3600, description="between golden probes of a replica")
    slow_start_s: float = Field(5.0, ge=0, le=3600, description="until a new replica gets its whole share")
    residency: ResidencyEntry | None = Field(None, description="load models on request, within a memory budget")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        places = (self.address, self.addresses, self.dns, self.kubernetes)
        if sum(place is not None for place in places) != 1:
            raise PydanticCustomError("place", "exactly one of address, addresses, dns and kubernetes is needed")
        if self.addresses and len(set(self.addresses)) != len(self.addresses):
            raise PydanticCustomError("twice", "an address stands in addresses twice")
        return self

    def fixed(self) -> frozenset[str]:
        """Return the addresses that are written down."""
        return frozenset(self.addresses or ([self.address] if self.address else []))

    def timing(self) -> Timing:
        """Return how often its replicas are looked at."""
        return Timing(
            probe_period_s=self.probe_period_s, golden_period_s=self.golden_period_s, slow_start_s=self.slow_start_s
        )


class UpstreamEntry(_Entry):
    """A host of models with the OpenAI API; the key itself never stands in the catalogue."""

    base_url: str = Field(
        pattern=r"^https?://[^\s?#]+$", description="up to and with the version, such as https://host/v1"
    )
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="variable that holds the key"
    )
    api_key_file: Path | None = Field(None, description="file that holds the key")
    connect_timeout_s: float = Field(5.0, gt=0, le=60, description="for a connection, its name and TLS included")
    first_byte_timeout_s: float = Field(60.0, gt=0, le=3600, description="for a stream to begin")
    stall_timeout_s: float = Field(30.0, gt=0, le=3600, description="between the parts of an answer")
    answer_timeout_s: float = Field(600.0, gt=0, le=3600, description="for an answer that is not streamed to begin")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.username is not None or parts.password is not None:
            raise PydanticCustomError("userinfo", "a user or password has no place in an address")
        if not value.isascii():
            raise PydanticCustomError("ascii", "an address is written in ASCII")
        if not parts.hostname:
            raise PydanticCustomError("host", "the address has no host")
        _ = parts.port  # raises ValueError when it is none
        return value

    def patience(self) -> Patience:
        """Return how long the upstream is waited for."""
        return Patience(self.connect_timeout_s, self.first_byte_timeout_s, self.stall_timeout_s, self.answer_timeout_s)

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key_env and self.api_key_file:
            raise PydanticCustomError("one_key", "take api_key_env or api_key_file, not both")
        return self


class TritonTarget(_Entry):
    """A model of a Triton server; `prompt` is how a text model wants its conversation."""

    server: str
    model: str = Field(min_length=1)
    prompt: PromptFormat = PromptFormat.PLAIN
    tensors: Literal["vllm", "tensorrt_llm"] = Field("vllm", description="whose tensors a text model speaks")
    cumulative: bool = Field(False, description="tensorrt_llm with accumulate_tokens: responses hold all text so far")
    affinity: Literal["none", "prefix"] = Field("none", description="prefix: chats that begin alike stay together")
    golden: Path | None = Field(None, description="golden cases that replace the model's own; beside the catalogue")


class ProbeEntry(_Entry):
    """A chat of one token now and then, whose answer decides whether the model gets requests."""

    period_s: float = Field(60.0, ge=1, le=3600, description="between probes")
    golden: Path | None = Field(None, description="golden cases with messages; beside the catalogue")
    golden_period_s: float = Field(600.0, ge=1, le=86_400, description="between golden probes")

    def timing(self) -> Timing:
        """Return how often the upstream is asked; it is no newcomer that has to warm up."""
        period_s, golden_s = self.period_s, self.golden_period_s
        return Timing(probe_period_s=period_s, golden_period_s=golden_s, golden_timeout_s=30.0, slow_start_s=0.0)


class OpenAITarget(_Entry):
    """A model of an upstream."""

    upstream: str
    model: str = Field(min_length=1)
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    probe: ProbeEntry | None = Field(None, description="none: it counts as ready, and only requests tell otherwise")


class ObjectiveEntry(_Entry):
    """What replicas are planned for: the share of requests that stays below so many seconds."""

    kind: Kind = Kind.WAIT
    quantile: float = Field(0.95, gt=0, lt=1)
    seconds: float = Field(gt=0, le=3600)


class QueueEntry(_Entry):
    """How many requests run at once and how many more may wait."""

    max_concurrent: int = Field(8, ge=1, le=10_000)
    max_waiting: int = Field(256, ge=0, le=100_000)
    least_concurrent: int | None = Field(None, ge=1, description="the number is learned, from this to the most")

    @model_validator(mode="after")
    def _least_first(self) -> Self:
        if self.least_concurrent is not None and self.least_concurrent > self.max_concurrent:
            raise PydanticCustomError("least", "least_concurrent is more than max_concurrent")
        return self

    def limits(self) -> QueueLimits:
        """Return them for the pool."""
        return QueueLimits(self.max_concurrent, self.max_waiting, self.least_concurrent)


class SamplingEntry(_Entry):
    """What is used when a request does not say."""

    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]] = Field([], max_length=MAX_STOPS)
    seed: int | None = None


Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=6)]


class PriceEntry(_Entry):
    """What a million tokens cost, in US dollars with at most six decimals."""

    input_usd_per_million: Dollars = Decimal(0)
    output_usd_per_million: Dollars = Decimal(0)

    def price(self) -> Price:
        """Return it in whole micro-dollars."""
        return Price(int(self.input_usd_per_million * 1_000_000), int(self.output_usd_per_million * 1_000_000))


class ModelEntry(_Entry):
    """A model under the name callers use."""

    name: Name
    task: Task
    triton: TritonTarget | None = None
    openai: OpenAITarget | None = None
    context_tokens: int = Field(0, ge=0, le=100_000_000, description="0: unknown")
    queue: QueueEntry = QueueEntry()
    objective: ObjectiveEntry | None = Field(None, description="none: 95 in 100 wait half a second at most")
    description: str = ""
    timeout_s: float = Field(60.0, gt=0, le=3600, description="for one request, its wait included")
    sampling: SamplingEntry = SamplingEntry()
    region: str = Field("", pattern=r"^([a-z0-9][a-z0-9-]{0,63})?$", description="where it runs, such as eu")
    capabilities: list[str] | None = Field(None, description="what a chat may ask of it; else what its provider can")
    price: PriceEntry | None = Field(None, description="none: it costs nothing")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.triton is None) == (self.openai is None):
            raise PydanticCustomError("one_target", "exactly one of triton and openai is needed")
        if self.openai is not None and self.task is not Task.GENERATE:
            raise PydanticCustomError("openai_task", "a model of an upstream can only generate")
        if self.triton and self.triton.tensors == "tensorrt_llm" and self.sampling.max_tokens is None:
            raise PydanticCustomError(
                "max_tokens", "tensorrt_llm needs sampling.max_tokens: it has no number of its own"
            )
        if self.triton and self.triton.cumulative and self.triton.tensors != "tensorrt_llm":
            raise PydanticCustomError("cumulative", "cumulative goes with the tensors of tensorrt_llm")
        return self

    def model(self) -> Model:
        """Return what the core knows of it."""
        sampling = self.sampling
        return Model(
            name=self.name,
            task=self.task,
            provider=Provider.TRITON if self.triton else Provider.OPENAI,
            queue=self.queue.limits(),
            objective=Objective(**dict(self.objective)) if self.objective else USUAL_OBJECTIVE,
            timeout_s=self.timeout_s,
            context_tokens=self.context_tokens,
            description=self.description,
            region=self.region,
            capabilities=self._usual() if self.capabilities is None else frozenset(self.capabilities),
            price=self.price.price() if self.price else None,
            sampling=Sampling(
                sampling.max_tokens, sampling.temperature, sampling.top_p, tuple(sampling.stop), sampling.seed
            ),
        )

    def _usual(self) -> frozenset[str]:
        if self.task is not Task.GENERATE:
            return frozenset()
        if self.triton is None:
            return HOSTED
        return PLAIN if self.triton.tensors == "vllm" else PLAIN - {"seed"}

    def possible(self) -> frozenset[str]:
        """Return the capabilities that may be declared."""
        return ALL if self.openai else self._usual()


class CatalogueFile(_Entry):
    """The whole file."""

    servers: dict[str, ServerEntry] = {}
    upstreams: dict[str, UpstreamEntry] = {}
    models: list[ModelEntry] = Field(min_length=1)

    def models_of(self, server: str) -> frozenset[str]:
        """Return the models of a server, as it names them."""
        return frozenset(each.triton.model for each in self.models if each.triton and each.triton.server == server)

    def moved(self, addresses: Mapping[str, str]) -> Self:
        """Return the catalogue with other addresses for some servers; raise CatalogueError for one it lacks."""
        unknown = [name for name in addresses if name not in self.servers]
        if unknown:
            raise CatalogueError(f'INFERENCE_SERVERS: no server "{unknown[0]}" is declared in the catalogue')
        moved = {
            name: {"address": address, "addresses": None, "dns": None, "kubernetes": None}
            for name, address in addresses.items()
        }
        servers = self.servers | {name: self.servers[name].model_copy(update=place) for name, place in moved.items()}
        return self.model_copy(update={"servers": servers})


def read_catalogue(path: Path) -> CatalogueFile:
    """Return the catalogue; raise CatalogueError with every mistake when it cannot be used."""
    try:
        document: Any = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    try:
        catalogue = CatalogueFile.model_validate(document)
    except ValidationError as error:
        raise CatalogueError(_lines(path, map(_line, error.errors()))) from error
    mistakes = [*_mistakes(catalogue), *_golden_mistakes(catalogue, path.parent)]
    if mistakes:
        raise CatalogueError(_lines(path, iter(mistakes)))
    return catalogue


def _mistakes(catalogue: CatalogueFile) -> Iterator[str]:
    """Yield what is wrong between entries that are right by themselves."""
    seen: dict[str, int] = {}
    for index, entry in enumerate(catalogue.models):
        if entry.name in seen:
            yield f"models[{index}].name: models[{seen[entry.name]}] has the name {entry.name!r} already"
        seen.setdefault(entry.name, index)
        if entry.triton and entry.triton.server not in catalogue.servers:
            yield f'models[{index}].triton.server: no server "{entry.triton.server}" is declared'
        if entry.openai and entry.openai.upstream not in catalogue.upstreams:
            yield f'models[{index}].openai.upstream: no upstream "{entry.openai.upstream}" is declared'
        for position, name in enumerate(entry.capabilities or ()):
            if name not in entry.possible():
                yield f"models[{index}].capabilities[{position}]: {name[:100]!r} is not possible here"
    yield from _residency_mistakes(catalogue)


def _residency_mistakes(catalogue: CatalogueFile) -> Iterator[str]:
    for server, each in catalogue.servers.items():
        there = catalogue.models_of(server)
        for name in (*each.residency.pinned, *each.residency.warm) if each.residency else ():
            if name not in there:
                yield f"servers.{server}.residency: no model of the server is named {name[:100]!r}"


def read_golden_file(target: TritonTarget | ProbeEntry, folder: Path) -> str:
    """Return the golden cases of a model as text, nothing where the catalogue has none; raise GoldenInvalid."""
    if target.golden is None:
        return ""
    try:
        text = (folder / target.golden).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GoldenInvalid(str(error)) from error
    if isinstance(target, ProbeEntry):
        read_golden(text, None, writes=True)
    else:
        parse_golden(text)
    return text


def _golden_mistakes(catalogue: CatalogueFile, folder: Path) -> Iterator[str]:
    for index, entry in enumerate(catalogue.models):
        probe = entry.openai.probe if entry.openai else None
        declared, path = (entry.triton, "triton") if entry.triton else (probe, "openai.probe")
        if declared:
            try:
                read_golden_file(declared, folder)
            except GoldenInvalid as error:
                yield f"models[{index}].{path}.golden: {error}"


def _lines(path: Path, mistakes: Iterator[str]) -> str:
    return "\n".join(f"{path}: {mistake}" for mistake in mistakes)


def _line(error: ErrorDetails) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")
    return f"{where}: {error['msg']}" if where else error["msg"]
