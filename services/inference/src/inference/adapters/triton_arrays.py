"""Runs a Triton model on arrays, for the pool's own probes."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from servicekit.errors import Unavailable
from servicekit.rpc import CallFailed
from tritonclient.grpc import service_pb2 as oip

from inference.adapters.triton import TritonServer, translate
from inference.adapters.triton_golden import DTYPES, TEXTS
from inference.core.golden_cases import Array
from inference.core.ports import BACKEND_FAILED

NAMES: Final = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class TritonArrays:
    """Runs one model, once per call."""

    def __init__(self, server: TritonServer, triton_name: str, name: str) -> None:
        """Take the server, the model's name there, and its name in the catalogue."""
        self._server = server
        self._triton_name = triton_name
        self._name = name

    async def run(self, inputs: Mapping[str, Array], timeout_s: float) -> Mapping[str, Array]:
        """Return the outputs by name; what cannot be read is a failure of the backend."""
        request = oip.ModelInferRequest(model_name=self._triton_name)
        for name, values in inputs.items():
            request.inputs.add(name=name, datatype=NAMES.get(values.dtype, TEXTS), shape=values.shape)
            request.raw_input_contents.append(_contents(values))
        try:
            answer = await self._server.call("ModelInfer", request.SerializeToString(), timeout_s)
            return _read(oip.ModelInferResponse.FromString(answer))
        except CallFailed as error:
            raise translate(error, self._name) from error
        except (DecodeError, ValueError) as error:
            raise Unavailable(f"{self._name} answered what is no tensor", reason=BACKEND_FAILED) from error


def _contents(values: Array) -> bytes:
    """Return the raw contents; each element of BYTES is led by its length in four bytes."""
    if values.dtype.kind != "O":
        return values.tobytes()
    return b"".join(len(text).to_bytes(4, "little") + text for text in values.ravel())


def _read(response: oip.ModelInferResponse) -> dict[str, Array]:
    return {
        output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        if output.datatype in DTYPES
    }
