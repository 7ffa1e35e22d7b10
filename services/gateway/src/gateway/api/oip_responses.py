"""What the OIP door takes and answers over REST, as OpenAPI shows it; the bodies are read by oip_json.py."""

from typing import Any

from pydantic import Field

from gateway.api.body import Body
from gateway.api.responses import Shown


class OipError(Shown):
    """The answer to every request under /v2 that fails."""

    error: str


class InferInput(Body):
    """A tensor: its values in `data`, nested or flat, or in the binary data that follows the JSON."""

    name: str = Field(min_length=1)
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] = Field(default_factory=list)


class InferOutput(Body):
    """A tensor that is wanted; the parameter `binary_data` says in which form."""

    name: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(Body):
    """One run of a model."""

    id: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: list[InferInput] = Field(min_length=1)
    outputs: list[InferOutput] = Field(default_factory=list)


class InferResponse(Shown):
    """What a model answered; a tensor has `data`, or the parameter `binary_data_size` and its bytes behind the JSON."""

    model_name: str
    model_version: str
    id: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    outputs: list[dict[str, Any]]


class ServerState(Shown):
    """Whether the server lives, or is ready."""

    live: bool = True
    ready: bool = True


class ServerDescription(Shown):
    """The server and its extensions of OIP."""

    name: str
    version: str
    extensions: list[str]


class ModelState(Shown):
    """Whether a model would serve the caller."""

    name: str
    ready: bool


class TensorDescription(Shown):
    """A tensor that goes into a model or comes out; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelDescription(Shown):
    """What goes into a model and what comes out."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]
