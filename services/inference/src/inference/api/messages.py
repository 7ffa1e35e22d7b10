"""Turns requests of penstock.inference.v1 into orders, and answers into responses."""

from collections.abc import Iterable
from typing import Any, Final

from penstock.inference.v1 import inference_pb2 as pb
from servicekit.errors import InvalidInput

from inference.core.answer import Answer, Choice, Delta, FinishReason, Usage
from inference.core.conversation import Audio, Image, Part, Text, ToolCall, Turn
from inference.core.generation import ChatOptions, JsonObject, JsonSchema, Order, Sampling, Tool, ToolChoice, ToolMode

REASONS: Final[dict[FinishReason | None, pb.FinishReason.ValueType]] = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CONTENT_FILTER: pb.FINISH_REASON_CONTENT_FILTER,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
}
MODES: Final = {
    pb.TOOL_MODE_AUTO: ToolMode.AUTO,
    pb.TOOL_MODE_NONE: ToolMode.NONE,
    pb.TOOL_MODE_REQUIRED: ToolMode.REQUIRED,
    pb.TOOL_MODE_FUNCTION: ToolMode.FUNCTION,
}
NO_SAMPLING: Final = Sampling()


def read_order(request: pb.GenerateRequest | pb.CompleteRequest) -> Order:
    """Return what is asked for; raise InvalidInput for what cannot be understood."""
    return Order(
        [_turn(message, index) for index, message in enumerate(request.messages)],
        _sampling(request.sampling) if request.HasField("sampling") else NO_SAMPLING,
        _options(request.options) if request.HasField("options") else None,
    )


def write_deltas(deltas: Iterable[Delta]) -> list[pb.Delta]:
    """Return the pieces of an answer as they travel."""
    return [_delta(each) for each in deltas]


def write_answer(answer: Answer, served: pb.ServedModel) -> pb.CompleteResponse:
    """Return a whole answer as it travels."""
    return pb.CompleteResponse(
        served=served, choices=[_choice(each) for each in answer.choices], finished=write_end(answer.usage)
    )


def write_end(usage: Usage) -> pb.GenerationFinished:
    """Return the end of an answer as it travels."""
    return pb.GenerationFinished(
        usage=pb.TokenUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            reported=usage.reported,
            cached_input_tokens=usage.cached_input_tokens,
            reasoning_output_tokens=usage.reasoning_output_tokens,
        ),
        backend_s=usage.backend_s,
    )


def _delta(delta: Delta) -> pb.Delta:
    if not (delta.tool_calls or delta.refusal or delta.logprobs_json or delta.finish_reason):
        return pb.Delta(choice=delta.choice, text=delta.text)
    return pb.Delta(
        choice=delta.choice,
        text=delta.text,
        tool_calls=[_call(call) for call in delta.tool_calls],
        refusal=delta.refusal,
        logprobs_json=delta.logprobs_json,
        finish_reason=REASONS[delta.finish_reason],
    )


def _choice(choice: Choice) -> pb.Choice:
    turn = choice.turn
    message = pb.Message(
        role=turn.role,
        content=turn.content,
        tool_calls=[_call(call) for call in turn.tool_calls],
        refusal=turn.refusal,
    )
    return pb.Choice(
        index=choice.index,
        message=message,
        finish_reason=REASONS[choice.finish_reason],
        logprobs_json=choice.logprobs_json,
    )


def _call(call: ToolCall) -> pb.ToolCall:
    return pb.ToolCall(index=call.index, id=call.id, name=call.name, arguments=call.arguments)


def _turn(message: pb.Message, position: int) -> Turn:
    parts, calls = message.parts, message.tool_calls
    return Turn(
        message.role,
        message.content,
        [_part(part, f"messages[{position}].content[{index}]") for index, part in enumerate(parts)] if parts else (),
        message.name,
        [ToolCall(index, call.id, call.name, call.arguments) for index, call in enumerate(calls)] if calls else (),
        message.tool_call_id,
        message.refusal,
    )


def _part(part: pb.ContentPart, path: str) -> Part:
    match part.WhichOneof("part"):
        case "text":
            return Text(part.text)
        case "image":
            return Image(part.image.url, part.image.detail)
        case "audio":
            return Audio(part.audio.content, part.audio.format)
    raise InvalidInput("a part is text, image or audio", field=path)


def _sampling(message: pb.SamplingParameters) -> Sampling:
    said = {field.name: value for field, value in message.ListFields()}
    if "stop" in said:
        said["stop"] = tuple(said["stop"])
    if "logit_bias" in said:
        said["logit_bias"] = dict(said["logit_bias"])
    return Sampling(**said)


def _options(message: pb.ChatOptions) -> ChatOptions:
    return ChatOptions(
        tools=[Tool(each.name, each.description, each.parameters_json, _strict(each)) for each in message.tools],
        tool_choice=_tool_choice(message.tool_choice),
        parallel_tool_calls=message.parallel_tool_calls if message.HasField("parallel_tool_calls") else None,
        response_format=_format(message.response_format),
        extra_json=message.extra_json,
    )


def _tool_choice(message: pb.ToolChoice) -> ToolChoice | None:
    if message.mode == pb.TOOL_MODE_UNSPECIFIED:
        return None
    if message.mode not in MODES:
        raise InvalidInput("this mode is not known", field="tool_choice.mode")
    return ToolChoice(MODES[message.mode], message.name)


def _format(message: pb.ResponseFormat) -> JsonObject | JsonSchema | None:
    match message.type:
        case pb.RESPONSE_FORMAT_TYPE_UNSPECIFIED:
            return None
        case pb.RESPONSE_FORMAT_TYPE_JSON_OBJECT:
            return JsonObject()
        case pb.RESPONSE_FORMAT_TYPE_JSON_SCHEMA:
            return JsonSchema(message.name, message.schema_json, message.description, _strict(message))
    raise InvalidInput("this type is not known", field="response_format.type")


def _strict(message: Any) -> bool | None:
    return message.strict if message.HasField("strict") else None
