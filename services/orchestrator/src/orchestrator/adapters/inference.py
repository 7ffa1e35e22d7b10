"""Writes text and ranks passages with the models of the inference service."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from penstock.inference.v1 import rank_pb2, rank_pb2_grpc
from servicekit.errors import Unavailable
from servicekit.rpc import Channel, PeerFailed

from orchestrator.core.answer import FinishReason, ServedModel, TokenUsage
from orchestrator.core.ports import Finished, Piece, Ranking
from orchestrator.core.question import Message, Sampling

REASONS: Final = {
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_CONTENT_FILTER: FinishReason.CONTENT_FILTER,
}


class RankClient:
    """The inference service behind the Ranker port."""

    def __init__(self, channel: Channel) -> None:
        """Take an open channel."""
        self._channel = channel
        self._stub = rank_pb2_grpc.RankServiceStub(channel.grpc)

    async def rank(self, model: str, question: str, passages: Sequence[str], timeout_s: float) -> Ranking:
        """Return a score for each passage; another number of scores is Unavailable."""
        request = rank_pb2.RankRequest(model=model, query=question, passages=passages)
        try:
            response = await self._channel.call(self._stub.Rank, request, timeout_s=timeout_s)
        except PeerFailed as error:
            raise Unavailable(f"model {model} failed", reason="backend_failed") from error
        if len(response.scores) != len(passages):
            raise Unavailable(f"model {model} did not score every passage", reason="backend_failed")
        return Ranking(tuple(response.scores), _served(response.served))


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
        answer = _Answer(model)
        try:
            if not streaming:
                whole = pb.CompleteRequest(model=model, messages=turns, sampling=asked)
                yield answer.whole(await self._channel.call(self._stub.Complete, whole, timeout_s=timeout_s))
                return
            request = pb.GenerateRequest(model=model, messages=turns, sampling=asked)
            responses = self._channel.stream(self._stub.Generate, request, timeout_s=timeout_s)
            async with aclosing(responses):  # type: ignore[type-var]  # it is a generator, declared as an iterator
                async for response in responses:
                    yield answer.piece(response)
        except PeerFailed as error:
            raise Unavailable(f"model {model} failed", reason="backend_failed") from error
        if not answer.finished:
            raise answer.broken_off()


class _Answer:
    """Reads one answer; a pipeline asks for one choice and offers no tools, so text and its end are all there is."""

    def __init__(self, model: str) -> None:
        self.finished = False
        self._model = model
        self._reason = pb.FINISH_REASON_UNSPECIFIED

    def piece(self, response: pb.GenerateResponse) -> Piece:
        """Return what a message of a stream brings."""
        for delta in response.deltas:
            if delta.finish_reason:
                self._reason = delta.finish_reason
        self.finished = response.HasField("finished")
        return Piece(
            "".join(delta.text or delta.refusal for delta in response.deltas),
            _served(response.served) if response.HasField("served") else None,
            self._end(response.finished.usage) if self.finished else None,
        )

    def whole(self, response: pb.CompleteResponse) -> Piece:
        """Return an answer that came at once."""
        if not response.choices:
            raise self.broken_off()
        choice = response.choices[0]
        self._reason = choice.finish_reason
        text = choice.message.content or choice.message.refusal
        return Piece(text, _served(response.served), self._end(response.finished.usage))

    def broken_off(self) -> Unavailable:
        """Return what an answer means that has no end."""
        return Unavailable(f"model {self._model} broke off", reason="backend_failed")

    def _end(self, usage: pb.TokenUsage) -> Finished:
        reason = REASONS.get(self._reason)
        if reason is None:  # none at all, or tools that nobody has offered
            raise self.broken_off()
        return Finished(reason, TokenUsage(usage.input_tokens, usage.output_tokens, usage.reported))


def _served(served: pb.ServedModel) -> ServedModel:
    return ServedModel(served.model, served.version, served.digest, served.provider)


def sampling_to_proto(sampling: Sampling) -> pb.SamplingParameters:
    """Return the wire form; what is None stays absent."""
    return pb.SamplingParameters(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=sampling.stop,
        seed=sampling.seed,
    )
