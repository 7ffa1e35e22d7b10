"""Generates text with a Triton model that speaks the tensors of Triton's vLLM backend."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import orjson
from google.protobuf.message import DecodeError
from servicekit.errors import Unavailable
from servicekit.rpc import CallFailed
from tritonclient.grpc import service_pb2 as oip

from inference.adapters.triton import TritonServer, translate
from inference.core.answer import Answer, Choice, Delta, FinishReason, Piece, Served, TakeText, Usage
from inference.core.capabilities import PLAIN, UnsupportedParameter, refuse_beyond
from inference.core.conversation import Turn
from inference.core.generation import Order, Sampling
from inference.core.ports import BACKEND_FAILED
from inference.core.stops import StopFilter

TRUE: Final = b"\x01"
SWITCHES: Final = (
    "stream",
    "exclude_input_in_output",
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
)
"""Inputs that are always on; excluding the input is what a stream allows alone."""
REASONS: Final = {b"stop": FinishReason.STOP, b"length": FinishReason.LENGTH}
UNFINISHED: Final = (b"", b"None", b"null")
ABLE: Final = PLAIN | {"penalties"}
"""What these tensors can carry, whatever the catalogue declares."""


class TritonGenerator:
    """Generates with one model; each request has a stream of its own, so that it can be cancelled and traced alone."""

    def __init__(
        self, server: TritonServer, triton_name: str, name: str, prompt: Callable[[Sequence[Turn]], str]
    ) -> None:
        """Take the server, the model's name there and in the catalogue, and what makes its prompt."""
        self._server = server
        self._name = name
        self._prompt = prompt
        self._template = _template(triton_name)

    async def generate(
        self,
        order: Order,
        timeout_s: float,
        take: TakeText | None = None,  # noqa: ARG002  a response changes what the next one means: it is read once, in the iteration
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of an answer; raise Unavailable with reason backend_failed when it breaks off."""
        refuse_beyond(order, ABLE, self._name)
        if order.options is not None and order.options.extra_json not in ("", "{}"):
            raise UnsupportedParameter(f"{self._name} takes no extra fields", field="extra_json")
        request = oip.ModelInferRequest()
        request.CopyFrom(self._template)
        request.raw_input_contents[0] = _string(self._prompt(order.turns).encode())
        request.raw_input_contents[1] = _string(orjson.dumps(_parameters(order.sampling)))
        answer = _Answer(self._name, order.sampling.stop)
        try:
            async with aclosing(self._server.stream(request.SerializeToString(), timeout_s)) as responses:
                async for response in responses:
                    piece = answer.read(oip.ModelStreamInferResponse.FromString(response))
                    if piece is not None:
                        yield piece
                    if answer.complete:
                        return
        except CallFailed as error:
            raise translate(error, self._name) from error
        except DecodeError as error:
            raise answer.unreadable() from error
        raise answer.broken_off()

    async def complete(self, order: Order, timeout_s: float) -> Answer:
        """Return the whole of an answer; raise as `generate` does."""
        served, texts = Served(""), list[str]()
        async with aclosing(self.generate(order, timeout_s)) as pieces:
            async for piece in pieces:
                served = piece.served or served
                texts += [delta.text for delta in piece.deltas]
                if piece.usage is not None:
                    reason = piece.deltas[-1].finish_reason
                    assert reason is not None, "the last delta has it"
                    return Answer(served, [Choice(0, Turn("assistant", "".join(texts)), reason)], piece.usage)
        raise AssertionError("an answer ends in its usage or in an error")


class _Answer:
    """Collects what the responses of one answer tell; texts and token counts come as differences."""

    def __init__(self, name: str, stops: Sequence[str]) -> None:
        self.complete = False
        self._asked_s = time.monotonic()
        self._stop = StopFilter(stops)
        self._name = name
        self._begun = False
        self._reason: FinishReason | None = None
        self._input_tokens: int | None = None
        self._output_tokens = 0

    def read(self, response: Any) -> Piece | None:
        """Return what a response brings, if anything; not every model minds stop texts, so they are minded here."""
        if response.error_message:
            raise self._failed(response.error_message)
        inner = response.infer_response
        version = None if self._begun else inner.model_version
        self._begun = True
        outputs = {output.name: raw for output, raw in zip(inner.outputs, inner.raw_output_contents, strict=False)}
        self._read_end(outputs)
        final = inner.parameters["triton_final_response"].bool_param
        text = self._stop.pass_on(_first_string(outputs.get("text_output", b"")).decode("utf-8", "replace"))
        if final and not self._stop.met:
            text += self._stop.rest()
        if self._stop.met:
            self._reason = FinishReason.STOP
        self.complete = final or self._stop.met
        if version is None and not text and not self.complete:
            return None
        served = None if version is None else Served(version)
        if not self.complete:
            return Piece(served, [Delta(text)] if text else [])
        return Piece(served, [Delta(text, self._ended())], self._usage())

    def broken_off(self) -> Unavailable:
        """Return what a stream means that ended before the answer did."""
        return self._failed("the stream ended without a finish reason")

    def unreadable(self) -> Unavailable:
        """Return what a response means that is no message of OIP."""
        return self._failed("its response cannot be read")

    def _ended(self) -> FinishReason:
        """Return why the answer ended; raise Unavailable when the model never told."""
        if self._reason is None:
            raise self.broken_off()
        return self._reason

    def _usage(self) -> Usage:
        took_s, reported = time.monotonic() - self._asked_s, self._input_tokens is not None
        return Usage(self._input_tokens or 0, self._output_tokens, reported=reported, backend_s=took_s)

    def _read_end(self, outputs: dict[str, bytes]) -> None:
        if "num_input_tokens" in outputs:
            self._input_tokens = int.from_bytes(outputs["num_input_tokens"][:4], "little")
        self._output_tokens += int.from_bytes(outputs.get("num_output_tokens", b"")[:4], "little")
        reason = _first_string(outputs.get("finish_reason", b""))
        if reason in UNFINISHED:
            return
        if reason not in REASONS:
            raise self._failed(f"the model ended with {reason[:40]!r}")
        self._reason = REASONS[reason]

    def _failed(self, why: str) -> Unavailable:
        return Unavailable(f"{self._name} failed: {why[:300]}", reason=BACKEND_FAILED, retry_after_s=1.0)


def _template(model: str) -> Any:
    request = oip.ModelInferRequest(model_name=model)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name in ("text_input", "sampling_parameters"):
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(b"")
    for name in SWITCHES:
        request.inputs.add(name=name, datatype="BOOL", shape=[1])
        request.raw_input_contents.append(TRUE)
    return request


def _parameters(sampling: Sampling) -> dict[str, Any]:
    choices: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": sampling.stop or None,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    return {name: value for name, value in choices.items() if value is not None}


def _string(value: bytes) -> bytes:
    """Return a BYTES tensor of one element: each element is led by its length in four bytes."""
    return len(value).to_bytes(4, "little") + value


def _first_string(tensor: bytes) -> bytes:
    return tensor[4 : 4 + int.from_bytes(tensor[:4], "little")]
