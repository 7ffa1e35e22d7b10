"""The chat of both doors: a model goes on with a conversation, or a pipeline answers its last question."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import answer_pb2 as answers
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from servicekit import identity
from servicekit.errors import InvalidInput

from gateway.api.backends import ChatCall, Chats, Pipelines, Take
from gateway.api.chat_needs import needs_of
from gateway.api.chat_rules import UnknownFields, check, naming_extra
from gateway.api.runs import MeteredRuns
from gateway.api.upstream import check_whole, closing, naming
from gateway.core import scopes
from gateway.core.structured import Demands, InvalidStructuredOutput, correction
from gateway.core.targets import Pipeline, target_of

Chunks = AsyncGenerator[pb.StreamChatResponse, None]
JUDGED = frozenset({inference.FINISH_REASON_STOP, inference.FINISH_REASON_TOOL_CALLS})
"""How an answer ended that promises to be whole. One that was cut or filtered says so itself, and is handed on."""


class ChatCalls:
    """Every chat, whichever door it came through."""

    def __init__(self, chats: Chats, pipelines: Pipelines, unknown_fields: UnknownFields, runs: MeteredRuns) -> None:
        self._runs = runs
        self._chats = chats
        self._pipelines = pipelines
        self._unknown_fields = unknown_fields

    async def complete(self, conversation: pb.Conversation) -> pb.ChatResponse:
        """Write the next turn; an answer that is not of the demanded form is asked for once more, then declared."""
        target, demands = self._checked(conversation)
        if isinstance(target, Pipeline):
            question = _question(conversation, target)
            with naming(conversation.model):
                async with self._runs.pipeline(question.knowledge_base) as bill:
                    answered = await self._pipelines.ask(orchestrator.AskRequest(question=question))
                    self._runs.answered(bill, answered.answer)
            return _turn(answered.answer, with_text=True)
        with self._chats.open(conversation.model, needs_of(conversation)) as call, naming_extra(conversation):
            response = await call.complete(_request(conversation))
            if demands:
                await _mend(call, conversation, response, demands)
            return pb.ChatResponse(
                choices=response.choices, usage=response.finished.usage, served=response.served, routing=call.routing
            )

    def stream(self, conversation: pb.Conversation, show: Take | None = None) -> Chunks:
        """Write the next turn piece by piece; how it ended is said last, once the whole is known to be good.

        What is wrong with the conversation is raised at once. `show` may be offered pieces that are nothing but more of
        a choice that has begun.
        """
        target, demands = self._checked(conversation)
        if isinstance(target, Pipeline):
            return self._answered(conversation, target)
        return _generated(self._chats.open(conversation.model, needs_of(conversation)), conversation, demands, show)

    def _checked(self, conversation: pb.Conversation) -> tuple[Any, Demands]:
        target = target_of(conversation.model)
        scopes.require(identity.current().scopes, scopes.ASK if isinstance(target, Pipeline) else scopes.MODELS)
        return target, check(conversation, self._unknown_fields)

    async def _answered(self, conversation: pb.Conversation, target: Pipeline) -> Chunks:
        request = orchestrator.StreamAskRequest(question=_question(conversation, target))
        complete = False
        with naming(conversation.model):
            async with (
                self._runs.pipeline(target.knowledge_base) as bill,
                closing(self._pipelines.stream_ask(request)) as events,
            ):
                async for event in events:
                    bill.began()
                    if event.WhichOneof("event") == "answer":
                        complete = True
                        self._runs.answered(bill, event.answer)
                        end = inference.Delta(finish_reason=_finish_reason(event.answer))
                        yield pb.StreamChatResponse(deltas=[end], finished=_turn(event.answer, with_text=False))
                    else:
                        bill.output_tokens += 1
                        yield pb.StreamChatResponse(deltas=[inference.Delta(text=event.text)])
                check_whole(complete)


class _Draft:
    """What a stream has written so far of one choice, as far as it is judged."""

    __slots__ = ("calls", "refused", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.calls: dict[int, list[str]] = {}
        self.refused = False

    def add(self, delta: inference.Delta) -> None:
        """Take the next piece."""
        if delta.text:
            self.text.append(delta.text)
        self.refused = self.refused or bool(delta.refusal)
        for call in delta.tool_calls:
            self.calls.setdefault(call.index, [call.name]).append(call.arguments)

    def faults(self, demands: Demands) -> list[str]:
        """Return what is wrong with the whole of it."""
        if self.refused:
            return []
        return demands.faults("".join(self.text), [(call[0], "".join(call[1:])) for call in self.calls.values()])


class _Progress:
    """A stream on its way: every piece goes on at once, but for how it ends."""

    __slots__ = ("_demands", "_drafts", "_ends", "_finished", "_served")

    def __init__(self, demands: Demands) -> None:
        self._demands = demands
        self._drafts: dict[int, _Draft | None] = {}
        self._ends: dict[int, inference.Delta] = {}
        self._finished: inference.GenerationFinished | None = None
        self._served = inference.ServedModel()

    def take(self, event: inference.GenerateResponse) -> pb.StreamChatResponse:
        """Return what can be shown of an event; maybe nothing."""
        piece = pb.StreamChatResponse(deltas=event.deltas)
        for delta in piece.deltas:
            if delta.choice not in self._drafts:
                self._drafts[delta.choice] = _Draft() if self._demands else None
            if delta.finish_reason:
                self._ends[delta.choice] = inference.Delta(choice=delta.choice, finish_reason=delta.finish_reason)
                delta.ClearField("finish_reason")
        self._draft(piece.deltas)
        if event.HasField("served"):
            self._served = event.served
            piece.served.CopyFrom(event.served)
        if event.HasField("finished"):
            self._finished = event.finished
        return piece

    def showing(self, show: Take) -> Take:
        """Return `show` for events that are nothing but more of choices that have begun."""
        drafts = self._drafts

        def take(event: inference.GenerateResponse) -> bool:
            if event.HasField("finished") or event.HasField("served"):
                return False
            for delta in event.deltas:
                if delta.finish_reason or delta.choice not in drafts:
                    return False
            if not show(event):
                return False
            if self._demands:
                self._draft(event.deltas)
            return True

        return take

    def _draft(self, deltas: Iterable[inference.Delta]) -> None:
        for delta in deltas:
            draft = self._drafts[delta.choice]
            if draft is not None:
                draft.add(delta)

    def last(self, routing: pb.Routing) -> pb.StreamChatResponse:
        """Return how every choice ended; raise Unavailable when one did not, or is not what was demanded."""
        check_whole(self._finished is not None and bool(self._ends) and self._ends.keys() >= self._drafts.keys())
        assert self._finished is not None
        for choice, draft in self._drafts.items():
            faults = draft.faults(self._demands) if draft and self._ends[choice].finish_reason in JUDGED else []
            if faults:
                raise _declared(faults)
        finished = pb.ChatResponse(usage=self._finished.usage, served=self._served, routing=routing)
        return pb.StreamChatResponse(deltas=[self._ends[choice] for choice in sorted(self._ends)], finished=finished)


async def _generated(call: ChatCall, conversation: pb.Conversation, demands: Demands, show: Take | None) -> Chunks:
    request = inference.GenerateRequest(
        messages=conversation.messages,
        sampling=conversation.sampling,
        options=conversation.options if conversation.HasField("options") else None,
    )
    progress = _Progress(demands)
    with call, naming_extra(conversation):
        async with aclosing(call.generate(request, show and progress.showing(show))) as events:
            async for event in events:
                piece = progress.take(event)
                if piece.deltas or piece.HasField("served"):
                    yield piece
        last = progress.last(call.routing)
    yield last


def _request(conversation: pb.Conversation) -> inference.CompleteRequest:
    return inference.CompleteRequest(
        messages=conversation.messages,
        sampling=conversation.sampling,
        options=conversation.options if conversation.HasField("options") else None,
    )


async def _mend(
    call: ChatCall, conversation: pb.Conversation, response: inference.CompleteResponse, demands: Demands
) -> None:
    """Replace the choices that are not of the demanded form by those of one further attempt, or declare the failure."""
    wrong = [(choice, faults) for choice in response.choices if (faults := _faults(choice, demands))]
    if not wrong:
        return
    choice, faults = wrong[0]
    request = _request(conversation)
    request.messages.extend(_shown(choice.message, faults))
    if request.sampling.n > 1:
        request.sampling.n = len(wrong)
    again = await call.complete(request)
    good = iter([each for each in again.choices if not _faults(each, demands)])
    for choice, _ in wrong:
        better = next(good, None)
        if better is None:
            raise _declared(_faults(again.choices[0], demands) or faults)
        index = choice.index
        choice.CopyFrom(better)
        choice.index = index
    response.served.CopyFrom(again.served)
    _add(response.finished.usage, again.finished.usage)


def _faults(choice: inference.Choice, demands: Demands) -> list[str]:
    message = choice.message
    if choice.finish_reason not in JUDGED or message.refusal:
        return []
    return demands.faults(message.content, [(call.name, call.arguments) for call in message.tool_calls])


def _shown(message: inference.Message, faults: Sequence[str]) -> list[inference.Message]:
    """Return the turns that show a model what was wrong with its answer. Calls are shown as text: nobody made them."""
    said = message.content or "\n".join(f"{call.name}({call.arguments})" for call in message.tool_calls)
    return [
        inference.Message(role="assistant", content=said),
        inference.Message(role="user", content=correction(faults)),
    ]


def _add(usage: inference.TokenUsage, more: inference.TokenUsage) -> None:
    usage.input_tokens += more.input_tokens
    usage.output_tokens += more.output_tokens
    usage.cached_input_tokens += more.cached_input_tokens
    usage.reasoning_output_tokens += more.reasoning_output_tokens
    usage.reported = usage.reported and more.reported


def _declared(faults: Sequence[str]) -> InvalidStructuredOutput:
    return InvalidStructuredOutput(f"the model's answer is not what was demanded: {faults[0]}", retry_after_s=1)


def _question(conversation: pb.Conversation, target: Pipeline) -> orchestrator.Question:
    *history, last = [_plain(message) for message in conversation.messages]
    if not last.content:
        raise InvalidInput("the question is empty", field=f"messages[{len(history)}].content")
    return orchestrator.Question(
        knowledge_base=target.knowledge_base, text=last.content, history=history, sampling=conversation.sampling
    )


def _plain(message: inference.Message) -> inference.Message:
    """Return a turn as text in one piece, in the roles that pipelines know."""
    text = "\n".join(part.text for part in message.parts) if message.parts else message.content
    return inference.Message(role="system" if message.role == "developer" else message.role, content=text)


def _finish_reason(answer: answers.Answer) -> Any:
    """Passages alone are a complete answer, too: nothing was cut off."""
    return answer.finish_reason or inference.FINISH_REASON_STOP


def _turn(answer: answers.Answer, *, with_text: bool) -> pb.ChatResponse:
    """Return an answer as a turn of a conversation."""
    message = inference.Message(role="assistant", content=answer.text)
    choice = inference.Choice(message=message, finish_reason=_finish_reason(answer))
    return pb.ChatResponse(
        choices=[choice] if with_text else [], usage=answer.usage, served=answer.served, answer=answer
    )
