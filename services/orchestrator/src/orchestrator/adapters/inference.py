"""Writes text with the models of the inference service."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from servicekit.errors import Unavailable
from servicekit.rpc import Channel, PeerFailed

from orchestrator.core.answer import FinishReason, ServedModel, TokenUsage
from orchestrator.core.ports import Finished, Started
from orchestrator.core.question import Message, Sampling


class InferenceClient:
    """The inference service behind the Generator port."""

    def __init__(self, channel: Channel) -> None:
        """Take an open channel."""
        self._channel = channel
        self._stub = pb_grpc.InferenceServiceStub(channel.grpc)

    async def generate(
        self, model: str, messages: Sequence[Message], sampling: Sampling, timeout_s: float
    ) -> AsyncGenerator[Started | str | Finished, None]:
        """Yield Started, pieces of text, Finished; a stream that breaks off is Unavailable, never a silent end."""
        request = pb.GenerateRequest(
            model=model,
            messages=[pb.Message(role=message.role, content=message.content) for message in messages],
            sampling=sampling_to_proto(sampling),
        )
        finished = False
        try:
            responses = self._channel.stream(self._stub.Generate, request, timeout_s=timeout_s)
            async with aclosing(responses):  # type: ignore[type-var]  # it is a generator, declared as an iterator
                async for response in responses:
                    event = _event(response)
                    finished = isinstance(event, Finished)
                    yield event
        except PeerFailed as error:
            raise Unavailable(f"model {model} failed", reason="backend_failed") from error
        if not finished:
            raise Unavailable(f"model {model} broke off", reason="backend_failed")


def _event(response: pb.GenerateResponse) -> Started | str | Finished:
    kind = response.WhichOneof("event")
    if kind == "text":
        return response.text
    if kind == "started":
        served = response.started.served
        return Started(ServedModel(served.model, served.version, served.digest, served.provider))
    usage = response.finished.usage
    return Finished(
        FinishReason(response.finished.finish_reason),
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
