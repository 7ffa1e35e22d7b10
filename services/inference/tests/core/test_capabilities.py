"""What a model cannot do is refused by the name of the field that asks for it."""

import pytest
from inference.core.capabilities import ALL, HOSTED, PLAIN, UnsupportedParameter, refuse_beyond
from inference.core.conversation import Audio, Image, Text, ToolCall, Turn
from inference.core.generation import ChatOptions, JsonObject, JsonSchema, Order, Sampling, Tool

HI = [Turn("user", "Hi")]
ASKED = [
    (Order(HI, Sampling(n=2)), "n", "n"),
    (Order(HI, Sampling(logprobs=True)), "logprobs", "logprobs"),
    (Order(HI, Sampling(logit_bias={"1": 1.0})), "logit_bias", "logit_bias"),
    (Order(HI, Sampling(presence_penalty=0.1)), "penalties", "presence_penalty"),
    (Order(HI, Sampling(frequency_penalty=-0.1)), "penalties", "frequency_penalty"),
    (Order(HI, Sampling(seed=0)), "seed", "seed"),
    (Order(HI, Sampling(stop=("a",))), "stop", "stop"),
    (Order(HI, options=ChatOptions([Tool("f")])), "tools", "tools"),
    (Order(HI, options=ChatOptions(response_format=JsonObject())), "json_object", "response_format"),
    (Order(HI, options=ChatOptions(response_format=JsonSchema("s", "{}"))), "json_schema", "response_format"),
    (Order([*HI, Turn("user", parts=[Text("a"), Image("https://x")])]), "vision", "messages[1].content[1]"),
    (Order([Turn("user", parts=[Audio("AA", "wav")])]), "audio", "messages[0].content[0]"),
    (Order([*HI, Turn("assistant", tool_calls=[ToolCall(0, "c", "f")])]), "tools", "messages[1].tool_calls"),
    (Order([Turn("tool", "1", tool_call_id="c")]), "tools", "messages[0].role"),
]


@pytest.mark.parametrize(("order", "capability", "field"), ASKED)
def test_a_model_without_the_capability_refuses_and_one_with_it_does_not(
    order: Order, capability: str, field: str
) -> None:
    refuse_beyond(order, frozenset({capability}), "m")
    with pytest.raises(UnsupportedParameter) as caught:
        refuse_beyond(order, ALL - {capability}, "m")
    assert (caught.value.reason, caught.value.field) == ("unsupported_parameter", field)


def test_text_for_text_needs_nothing() -> None:
    sampling = Sampling(5, 0.5, 0.5, n=1, presence_penalty=0.0, logit_bias={})
    turns = [Turn("user", parts=[Text("a")], name="Ada"), Turn("assistant", refusal="No.")]
    refuse_beyond(Order(turns, sampling), frozenset(), "m")
    with pytest.raises(UnsupportedParameter):
        refuse_beyond(Order([*turns, Turn("user", parts=[Image("https://x")])], sampling), frozenset(), "m")


def test_the_defaults_are_known_capabilities() -> None:
    assert PLAIN < HOSTED < ALL
    assert "audio" not in HOSTED
