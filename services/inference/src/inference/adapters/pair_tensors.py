"""The tensors of a ranking model: `query` BYTES [1], `passages` BYTES [P] -> `scores` FP32 [P]."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as oip

from inference.core.ranking import Ranked

LENGTH_BYTES: Final = 4
"""Before each element of a BYTES tensor."""


class PairTensors:
    """Writes and reads them as OIP messages with raw contents."""

    def request(self, model: str, query: str, passages: Sequence[str]) -> bytes:
        """Return a ModelInferRequest; each element of a BYTES tensor is led by its length."""
        request = oip.ModelInferRequest(model_name=model)
        for name, texts in (("query", [query]), ("passages", passages)):
            request.inputs.add(name=name, datatype="BYTES", shape=[len(texts)])
            request.raw_input_contents.append(b"".join(map(_element, texts)))
        request.outputs.add(name="scores")
        serialised: bytes = request.SerializeToString()
        return serialised

    def read(self, response: bytes) -> Ranked:
        """Return what a ModelInferResponse says; raise ValueError when it holds no scores."""
        try:
            message = oip.ModelInferResponse.FromString(response)
        except DecodeError as error:
            raise ValueError("its answer is no ModelInferResponse") from error
        if [(output.name, output.datatype) for output in message.outputs] != [("scores", "FP32")]:
            raise ValueError("its answer is not one FP32 tensor named scores")
        if len(message.raw_output_contents) != 1:
            raise ValueError("its scores have no raw contents")
        return Ranked(np.frombuffer(message.raw_output_contents[0], "<f4").tolist(), message.model_version)


def _element(text: str) -> bytes:
    encoded = text.encode("utf-8", "replace")
    return len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded
