"""Runs the encoder through the Open Inference Protocol, as the inference service and Triton speak it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from servicekit.errors import NotFound, PenstockError, TimedOut, Unavailable
from servicekit.rpc import Channel, PeerFailed
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

from embedding.core.ports import FLOAT_BYTES, TOKEN_BYTES, Fingerprint, TokenIds, Vector

INPUT_IDS: Final = "input_ids"
ATTENTION_MASK: Final = "attention_mask"
EMBEDDING: Final = "embedding"
LONGEST_TEXT_TOKENS: Final = 8192
ATTENDED: Final = (1).to_bytes(TOKEN_BYTES, "little") * LONGEST_TEXT_TOKENS
DIGEST_SCHEME: Final = "sha256:"
NEUTRAL: Final = (NotFound, Unavailable, TimedOut)
"""What a caller may read as it is; any other refusal is between this service and the encoder, not his fault."""


class EncoderFailed(Unavailable):
    """The encoder answered with something that is not what was asked for."""

    default_reason = "backend_failed"


class OipEncoder:
    """One encoder model behind an OIP server: `input_ids`, `attention_mask` INT64 [N, L] -> `embedding` FP32 [N, D]."""

    def __init__(self, channel: Channel, model: str, encode_timeout_s: float, ask_timeout_s: float) -> None:
        """Use an open channel; a batch may take `encode_timeout_s` seconds, the question who serves `ask_timeout_s`."""
        self._channel = channel
        self._stub: Any = oip_grpc.GRPCInferenceServiceStub(channel.grpc)
        self._model = model
        self._encode_timeout_s = encode_timeout_s
        self._ask_timeout_s = ask_timeout_s

    async def fingerprint(self) -> Fingerprint:
        """Return what the model's configuration says about itself."""
        request = oip.ModelConfigRequest(name=self._model)
        response = await self._call(self._stub.ModelConfig, request, self._ask_timeout_s)
        values = {name: value.string_value for name, value in response.config.parameters.items()}
        try:
            return _fingerprint(self._model, values)
        except (KeyError, ValueError) as error:
            raise EncoderFailed(f"model {self._model} has no usable parameter {error}") from error

    async def encode(self, texts: Sequence[TokenIds], dimensions: int) -> Sequence[Vector]:
        """Return the vectors, cut out of the one tensor that came back."""
        response = await self._call(self._stub.ModelInfer, self._request(texts), self._encode_timeout_s)
        row = dimensions * FLOAT_BYTES
        names = [output.name for output in response.outputs]
        raw = response.raw_output_contents[0] if names == [EMBEDDING] and response.raw_output_contents else b""
        if len(raw) != row * len(texts):
            raise EncoderFailed(f"model {self._model} answered {len(raw)} bytes of {names} for {len(texts)} texts")
        if not np.isfinite(np.frombuffer(raw, "<f4")).all():
            raise EncoderFailed(f"model {self._model} answered with numbers that are not finite")
        return [raw[start : start + row] for start in range(0, len(raw), row)]

    def _request(self, texts: Sequence[TokenIds]) -> Any:
        """Return the request; padding is zeros on the right of both tensors, so bytes are joined, not parsed."""
        width = max(map(len, texts))
        shape = [len(texts), width // TOKEN_BYTES]
        request = oip.ModelInferRequest(model_name=self._model)
        for name in (INPUT_IDS, ATTENTION_MASK):
            request.inputs.add(name=name, datatype="INT64", shape=shape)
        request.outputs.add(name=EMBEDDING)
        request.raw_input_contents.append(b"".join([text.ljust(width, b"\0") for text in texts]))
        request.raw_input_contents.append(b"".join([ATTENDED[: len(text)].ljust(width, b"\0") for text in texts]))
        return request

    async def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return await self._channel.call(method, request, timeout_s=timeout_s)
        except PeerFailed as error:
            raise EncoderFailed(f"the encoder {self._model} failed") from error
        except NEUTRAL:
            raise
        except PenstockError as error:
            raise EncoderFailed(f"the encoder {self._model} refused: {error.message}") from error


def _fingerprint(model: str, values: Mapping[str, str]) -> Fingerprint:
    fingerprint = Fingerprint(
        model=model,
        version=values["version"],
        digest=DIGEST_SCHEME + values["digest"].removeprefix(DIGEST_SCHEME),
        dimensions=int(values["dimensions"]),
        pooling=values["pooling"],
        max_tokens=int(values["max_tokens"]),
    )
    if not (fingerprint.dimensions > 0 and 0 < fingerprint.max_tokens <= LONGEST_TEXT_TOKENS):
        raise ValueError("dimensions or max_tokens")
    return fingerprint
