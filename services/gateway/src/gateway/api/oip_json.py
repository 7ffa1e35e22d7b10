"""OIP's REST form and its messages, turned into each other; tensors sent as binary data are copied once."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import jiter
import orjson
from servicekit.errors import InvalidInput, Unavailable
from servicekit.oip import fields, tag_and_size
from tritonclient.grpc import service_pb2 as oip

from gateway.api.errors import TooLarge
from gateway.api.tensor_values import datatype_of, pack, shape_of, unpack

RAW_INPUTS: Final = 7
RAW_OUTPUTS: Final = 6
LARGEST_JSON: Final = 4 * 1024 * 1024
"""Reading so much JSON takes about 50 ms, and nobody else is served meanwhile; larger tensors go as binary data."""
LONGEST_TEXT: Final = 4096
SHARED_MEMORY: Final = "shared_memory_"
BINARY_SIZE, BINARY_OUTPUT, BINARY_OUTPUTS = "binary_data_size", "binary_data", "binary_data_output"
REQUEST: Final = frozenset({"id", "parameters", "inputs", "outputs"})
INPUT: Final = frozenset({"name", "shape", "datatype", "parameters", "data"})
OUTPUT: Final = frozenset({"name", "parameters"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as OIP's message, and which outputs are wanted as binary data."""

    message: bytes
    binary: bool
    binary_by_name: Mapping[str, bool]

    def wants_binary(self, output: str) -> bool:
        """Say whether an output goes back as binary data."""
        return self.binary_by_name.get(output, self.binary)


@dataclass(frozen=True, slots=True)
class Answered:
    """A response: its JSON, and the binary data that follows it."""

    header: bytes
    binary: list[memoryview]


def read_request(model: str, version: str, header: bytes, binary: memoryview) -> Asked:
    """Return a request's JSON and the binary data behind it as a ModelInferRequest; raise InvalidInput, TooLarge."""
    document = _document(header)
    parameters = _object(document.get("parameters"), "parameters")
    request = oip.ModelInferRequest(model_name=model, model_version=version, id=_name(document, "id", "", empty=True))
    _set_parameters(request.parameters, parameters, "parameters")
    raw = _read_inputs(request, document.get("inputs"), binary)
    wanted: dict[str, bool] = {}
    default = _flag(parameters, BINARY_OUTPUTS, "parameters", default=False)
    for place, output in enumerate(_list(document.get("outputs") or [], "outputs")):
        where = f"outputs[{place}]"
        _only(_object(output, where), OUTPUT, where)
        settings = _object(output.get("parameters"), f"{where}.parameters")
        named = request.outputs.add(name=_name(output, "name", where))
        _set_parameters(named.parameters, settings, f"{where}.parameters")
        wanted[named.name] = _flag(settings, BINARY_OUTPUT, f"{where}.parameters", default=default)
    parts: list[bytes | memoryview] = [request.SerializeToString()]
    for each in raw:
        parts += (tag_and_size(RAW_INPUTS, len(each)), each)
    return Asked(b"".join(parts), default, wanted)


def write_response(message: bytes, asked: Asked) -> Answered:
    """Return a ModelInferResponse as JSON and binary data; raise InvalidInput when an output has no form in JSON."""
    view, head, raw = memoryview(message), bytearray(), []
    for number, start, end in fields(message):
        if number == RAW_OUTPUTS:
            raw.append(view[start:end])
        else:
            head += tag_and_size(number, end - start) + view[start:end]
    response = oip.ModelInferResponse.FromString(bytes(head))
    if len(raw) != len(response.outputs):
        raise Unavailable("the model answered with outputs that have no bytes", reason="backend_failed")
    binary: list[memoryview] = []
    outputs: list[dict[str, Any]] = []
    for output, content in zip(response.outputs, raw, strict=True):
        shown: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        parameters = _parameters(output.parameters)
        if asked.wants_binary(output.name):
            parameters[BINARY_SIZE] = len(content)
            binary.append(content)
        else:
            shown["data"] = unpack(content, output.datatype)
        outputs.append(shown | ({"parameters": parameters} if parameters else {}))
    document: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    document |= {"id": response.id} if response.id else {}
    if response.parameters:
        document["parameters"] = _parameters(response.parameters)
    return Answered(orjson.dumps(document | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY), binary)


def metadata_json(response: oip.ModelMetadataResponse) -> dict[str, Any]:
    """Return what goes into a model and what comes out, as REST says it."""
    return {
        "name": response.name,
        "versions": list(response.versions),
        "platform": response.platform,
        "inputs": [_tensor(each) for each in response.inputs],
        "outputs": [_tensor(each) for each in response.outputs],
    }


def _read_inputs(request: oip.ModelInferRequest, inputs: Any, binary: memoryview) -> list[bytes | memoryview]:
    """Describe the inputs in the message; return their bytes."""
    raw: list[bytes | memoryview] = []
    position, names = 0, set[str]()
    for place, each in enumerate(_list(inputs, "inputs")):
        where = f"inputs[{place}]"
        _only(_object(each, where), INPUT, where)
        settings = _object(each.get("parameters"), f"{where}.parameters")
        tensor = request.inputs.add(
            name=_name(each, "name", where), shape=shape_of(each.get("shape"), f"{where}.shape")
        )
        size = datatype_of(each.get("datatype"), f"{where}.datatype").size
        tensor.datatype = each["datatype"]
        _set_parameters(tensor.parameters, settings, f"{where}.parameters")
        if BINARY_SIZE in settings:
            raw.append(_cut(binary, position, settings[BINARY_SIZE], f"{where}.parameters.{BINARY_SIZE}"))
            position += len(raw[-1])
            if "data" in each or (size and len(raw[-1]) != size * prod(tensor.shape)):
                message = (
                    f"the shape needs {size * prod(tensor.shape)} bytes of {tensor.datatype}, and no `data` beside"
                )
                raise InvalidInput(message, field=where)
        elif "data" in each:
            raw.append(pack(each["data"], tensor.datatype, tensor.shape, f"{where}.data"))
        else:
            raise InvalidInput(f"{where} has neither `data` nor binary data", field=f"{where}.data")
        names.add(tensor.name)
    if len(names) != len(raw) or not raw:
        raise InvalidInput("at least one of inputs is needed, and each by a name of its own", field="inputs")
    if position != len(binary):
        raise InvalidInput(f"{len(binary)} bytes of binary data were sent, the inputs take {position}", field="inputs")
    return raw


def _document(header: bytes) -> dict[str, Any]:
    if len(header) > LARGEST_JSON:
        raise TooLarge(f"at most {LARGEST_JSON} bytes of JSON are taken; send tensors as binary data")
    try:
        document = jiter.from_json(header, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise InvalidInput(f"the request is not JSON: {error}"[:300], reason="malformed_json") from error
    _only(_object(document, "the request"), REQUEST, "")
    return dict(document)


def _cut(binary: memoryview, position: int, size: Any, where: str) -> memoryview:
    if type(size) is not int or not 0 <= size <= len(binary) - position:
        raise InvalidInput(f"{where} is no size of the binary data that is there", field=where)
    return binary[position : position + size]


def _set_parameters(target: Any, values: Mapping[str, Any], where: str) -> None:
    for name, value in values.items():
        path = f"{where}.{name}"
        if name.startswith(SHARED_MEMORY):
            raise InvalidInput("shared memory is not offered here", reason="unsupported_parameter", field=path[:200])
        if name in {BINARY_SIZE, BINARY_OUTPUT, BINARY_OUTPUTS}:
            continue
        match value:
            case bool():
                target[name].bool_param = value
            case int() if -(2**63) <= value < 2**63:
                target[name].int64_param = value
            case float():
                target[name].double_param = value
            case str():
                target[name].string_param = value
            case _:
                raise InvalidInput("a parameter is a flag, a number or a text", field=path[:200])


def _parameters(values: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for name, value in values.items()
    }


def _tensor(described: Any) -> dict[str, Any]:
    return {"name": described.name, "datatype": described.datatype, "shape": list(described.shape)}


def _object(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} has to be an object", field=where)
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{where} has to be a list", field=where)
    return value


def _only(value: dict[str, Any], known: frozenset[str], where: str) -> None:
    for name in value:
        if name not in known:
            path = f"{where}.{name}" if where else name
            raise InvalidInput(f"unknown field {path[:200]!r}", reason="unknown_parameter", field=path[:200])


def _flag(values: Mapping[str, Any], name: str, where: str, *, default: bool) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} is true or false", field=f"{where}.{name}")
    return value


def _name(value: Mapping[str, Any], name: str, where: str, *, empty: bool = False) -> str:
    path = f"{where}.{name}" if where else name
    text = value.get(name, "" if empty else None)
    if not isinstance(text, str) or len(text) > LONGEST_TEXT or not (text or empty):
        raise InvalidInput(f"{path} has to be a text", field=path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{path} is not valid Unicode", field=path) from error
    return text
