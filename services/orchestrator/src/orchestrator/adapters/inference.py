"""Writes text with the models of the inference service."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from servicekit.errors import Unavailable
from servicekit.rpc import Channel, PeerFailed

from orchestrator.core.answer import FinishReason, ServedModel, TokenUsage
from orchestrator.core.ports import Finished, Piece
from orchestrator.core.question import Message, Sampling


class InferenceClient:
    """The inference service behind the Generator port."""

    def __init__(self, channel: Channel) -> None:
        """Take an open channel."""
        self._channel = channel
        self._stub = pb_grpc.InferenceServiceStub(channel.grpc)

    async def generate(
        self, model: str, messages: Sequence[Message], sampling: Sampling, timeout_s: float, *, streaming: bool
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of an answer; a stream that breaks off is Unavailable, never a silent end.

        Without `streaming` it is a unary call, which costs half of a stream even when that has one message.
        """
        turns = [pb.Message(role=message.role, content=message.content) for message in messages]
        asked = sampling_to_proto(sampling)
        finished = False
        try:
            if not streaming:
                whole = pb.CompleteRequest(model=model, messages=turns, sampling=asked)
                yield _piece(await self._channel.call(self._stub.Complete, whole, timeout_s=timeout_s))
                return
            request = pb.GenerateRequest(model=model, messages=turns, sampling=asked)
            responses = self._channel.stream(self._stub.Generate, request, timeout_s=timeout_s)
            async with aclosing(responses):  # type: ignore[type-var]  # it is a generator, declared as an iterator
                async for response in responses:
                    finished = response.HasField("finished")
                    yield _piece(response)
        except PeerFailed as error:
            raise Unavailable(f"model {model} failed", reason="backend_failed") from error
        if not finished:
            raise Unavailable(f"model {model} broke off", reason="backend_failed")


def _piece(response: pb.GenerateResponse | pb.CompleteResponse) -> Piece:
    return Piece(
        response.text,
        _served(response.served) if response.HasField("served") else None,
        _finished(response.finished) if response.HasField("finished") else None,
    )


def _served(served: pb.ServedModel) -> ServedModel:
    return ServedModel(served.model, served.version, served.digest, served.provider)


def _finished(finished: pb.GenerationFinished) -> Finished:
    usage = finished.usage
    return Finished(
        FinishReason(finished.finish_reason),
        TokenUsage(usage.input_tokens, usage.output_tokens, usage.reported),
    )


def sampling_to_proto(sampling: Sampling) -> pb.SamplingParameters:
    """Return the wire form; what is None stays absent."""
    return pb.SamplingParameters(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=sampling.stop,
        seed=sampling.seed,
    )
