"""Answers that the fake model pool gives when a test tells it what to say."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from penstock.inference.v1 import inference_pb2 as inference

STOP = inference.FINISH_REASON_STOP
LENGTH = inference.FINISH_REASON_LENGTH
TOOL_CALLS = inference.FINISH_REASON_TOOL_CALLS
FILTERED = inference.FINISH_REASON_CONTENT_FILTER
PIECE = 4
"""Characters of a piece of a stream."""


@dataclass
class Written:
    """What a model writes: the same for every choice, but for texts of their own. `calls` are (id, name, arguments)."""

    text: str = ""
    texts: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    refusal: str = ""
    finish_reason: int = STOP
    logprobs: str = ""
    reported: bool = True
    breaks: Exception | None = None
    ends: bool = True

    def text_of(self, choice: int) -> str:
        return self.texts[choice] if self.texts else self.text


SERVED = inference.ServedModel(
    model="writer", version="7", digest="sha256:11", provider="openai", region="eu", system_fingerprint="fp_1"
)


def usage(written: Written) -> inference.TokenUsage:
    return inference.TokenUsage(
        input_tokens=5, output_tokens=3, reported=written.reported, cached_input_tokens=2, reasoning_output_tokens=1
    )


def whole(written: Written, n: int) -> inference.CompleteResponse:
    """Return an answer of n choices; fail when told to."""
    if written.breaks is not None:
        raise written.breaks
    response = inference.CompleteResponse(served=SERVED, finished=inference.GenerationFinished(usage=usage(written)))
    for index in range(n):
        message = inference.Message(role="assistant", content=written.text_of(index), refusal=written.refusal)
        for position, (call, name, arguments) in enumerate(written.calls):
            message.tool_calls.add(index=position, id=call, name=name, arguments=arguments)
        response.choices.add(
            index=index, message=message, finish_reason=written.finish_reason, logprobs_json=written.logprobs
        )
    return response


def stream(written: Written, n: int) -> Iterator[inference.GenerateResponse]:
    """Yield the same in pieces, choices and calls interleaved; break off when told to."""
    yield inference.GenerateResponse(served=SERVED)
    columns = [list(_deltas(written, index)) for index in range(n)]
    for row in range(max(map(len, columns))):
        yield inference.GenerateResponse(deltas=[column[row] for column in columns if row < len(column)])
    if written.breaks is not None:
        raise written.breaks
    if not written.ends:
        return
    ends = [inference.Delta(choice=index, finish_reason=written.finish_reason) for index in range(n)]
    finished = inference.GenerationFinished(usage=usage(written))
    yield inference.GenerateResponse(deltas=ends)
    yield inference.GenerateResponse(finished=finished)


def _deltas(written: Written, choice: int) -> Iterator[inference.Delta]:
    for piece in cut(written.text_of(choice)):
        yield inference.Delta(choice=choice, text=piece, logprobs_json=written.logprobs)
    for piece in cut(written.refusal):
        yield inference.Delta(choice=choice, refusal=piece)
    for index, (call, name, _) in enumerate(written.calls):
        yield inference.Delta(choice=choice, tool_calls=[inference.ToolCall(index=index, id=call, name=name)])
    pieces = [list(cut(arguments)) for _, _, arguments in written.calls]
    for row in range(max(map(len, pieces), default=0)):
        for index, column in enumerate(pieces):
            if row < len(column):
                more = inference.ToolCall(index=index, arguments=column[row])
                yield inference.Delta(choice=choice, tool_calls=[more])


def cut(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]
