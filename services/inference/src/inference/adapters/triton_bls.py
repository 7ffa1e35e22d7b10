"""Generates text with a Triton model that speaks the tensors of TensorRT-LLM's `tensorrt_llm_bls`."""

import logging
import struct
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from google.protobuf.message import DecodeError
from servicekit.errors import InvalidInput, Unavailable
from servicekit.rpc import CallFailed
from tritonclient.grpc import service_pb2 as oip

from inference.adapters.triton import TritonServer, translate
from inference.core.answer import Answer, Choice, Delta, FinishReason, Piece, Served, TakeText, Usage
from inference.core.capabilities import PLAIN, UnsupportedParameter, refuse_beyond
from inference.core.conversation import Turn
from inference.core.generation import Order, Sampling
from inference.core.ports import BACKEND_FAILED
from inference.core.stops import StopFilter

ABLE: Final = PLAIN - {"seed"} | {"penalties"}
"""What these tensors can carry, whatever the catalogue declares; that of a seed has another name in each release."""
UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
"""At the end of all text so far: the bytes of a character of which some are still to come."""
LARGEST_COUNT: Final = 2**31 - 1
log = logging.getLogger(__name__)


class BlsGenerator:
    """Generates with one model; each request has a stream of its own, so that it can be cancelled and traced alone.

    The model tells neither why an answer ended nor how many tokens it has. A response of a stream is a token, so as
    many as were allowed mean `length`; the usage is not reported.
    """

    def __init__(
        self,
        server: TritonServer,
        triton_name: str,
        name: str,
        prompt: Callable[[Sequence[Turn]], str],
        *,
        cumulative: bool = False,
    ) -> None:
        """Take the server, the model's name there and in the catalogue, and what makes its prompt.

        It is `cumulative` where the model runs with accumulate_tokens: each response then has all text so far.
        """
        self._server = server
        self._triton_name = triton_name
        self._name = name
        self._prompt = prompt
        self._cumulative = cumulative

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
        request = _request(self._triton_name, self._prompt(order.turns), order.sampling)
        answer = _Answer(self._name, order.sampling, cumulative=self._cumulative)
        try:
            async with aclosing(self._server.stream(request, timeout_s)) as responses:
                async for response in responses:
                    piece = answer.read(oip.ModelStreamInferResponse.FromString(response))
                    if piece is not None:
                        yield piece
                    if answer.complete:
                        return
        except CallFailed as error:
            raise translate(error, self._name) from error
        except DecodeError as error:
            raise answer.failed("its response cannot be read") from error
        raise answer.failed("the stream ended before the answer did")

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
    """Collects what the responses of one answer tell."""

    def __init__(self, name: str, sampling: Sampling, *, cumulative: bool) -> None:
        self.complete = False
        self._name = name
        self._stop = StopFilter(sampling.stop)
        self._most = sampling.max_tokens or LARGEST_COUNT
        self._cumulative = cumulative
        self._told = ""
        self._responses = 0
        self._begun = False
        self._asked_s = time.monotonic()

    def read(self, response: Any) -> Piece | None:
        """Return what a response brings, if anything."""
        if response.error_message:
            raise self.failed(response.error_message)
        inner = response.infer_response
        served = None if self._begun else Served(inner.model_version)
        self._begun = True
        final: bool = inner.parameters["triton_final_response"].bool_param
        text = self._stop.pass_on(self._new_text(inner, final=final))
        if final and not self._stop.met:
            text += self._stop.rest()
        self.complete = final or self._stop.met
        if self.complete:
            usage = Usage(backend_s=time.monotonic() - self._asked_s)
            return Piece(served, [Delta(text, self._reason())], usage)
        if served is None and not text:
            return None
        return Piece(served, [Delta(text)] if text else [])

    def failed(self, why: str) -> Unavailable:
        """Return what the answer failed with; what went wrong over there, a traceback as a rule, is for the log."""
        log.warning("triton failed on %s: %s", self._name, why[-300:])
        return Unavailable(f"{self._name} failed", reason=BACKEND_FAILED, retry_after_s=1.0)

    def _reason(self) -> FinishReason:
        stopped = self._stop.met or self._responses < self._most
        return FinishReason.STOP if stopped else FinishReason.LENGTH

    def _new_text(self, inner: Any, *, final: bool) -> str:
        raw = next((raw for output, raw in _outputs(inner) if output.name == "text_output"), None)
        if raw is not None:
            self._responses += 1
        text = _first_string(raw or b"")
        if not self._cumulative:
            return text
        if raw is None:
            return ""
        settled = text if final else text.rstrip(UNFINISHED)
        if not settled.startswith(self._told):
            raise self.failed("it wrote over text that it had sent")
        new, self._told = settled[len(self._told) :], settled
        return new


def _outputs(inner: Any) -> "zip[tuple[Any, bytes]]":
    return zip(inner.outputs, inner.raw_output_contents, strict=False)


def _request(model: str, prompt: str, sampling: Sampling) -> bytes:
    """Return the request; every tensor has a batch of one, as the model checks."""
    if sampling.max_tokens is None:
        raise InvalidInput("max_tokens is needed: the model has no number of its own", field="sampling.max_tokens")
    request = oip.ModelInferRequest(model_name=model)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    most = min(sampling.max_tokens, LARGEST_COUNT)
    texts = {"text_input": (prompt,), "stop_words": sampling.stop}
    for name, values in texts.items():
        if values:
            _add(request, name, "BYTES", b"".join(map(_string, values)), len(values))
    _add(request, "stream", "BOOL", b"\x01")
    _add(request, "max_tokens", "INT32", struct.pack("<i", most))
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        value: float | None = getattr(sampling, name)
        if value is not None:
            _add(request, name, "FP32", struct.pack("<f", value))
    serialised: bytes = request.SerializeToString()
    return serialised


def _add(request: Any, name: str, datatype: str, raw: bytes, size: int = 1) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=[1, size])
    request.raw_input_contents.append(raw)


def _string(text: str) -> bytes:
    """Return an element of a BYTES tensor: it is led by its length in four bytes."""
    value = text.encode("utf-8", "replace")
    return len(value).to_bytes(4, "little") + value


def _first_string(tensor: bytes) -> str:
    return tensor[4 : 4 + int.from_bytes(tensor[:4], "little")].decode("utf-8", "replace")
