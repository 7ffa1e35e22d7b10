"""Requests are checked, and filled from the model's defaults."""

import math
from dataclasses import replace
from typing import Any

import pytest
from inference.core.generation import ChatOptions, JsonSchema, Sampling, Tool, ToolChoice, ToolMode
from servicekit.errors import InvalidInput

WRONG = [
    (Sampling(max_tokens=0), "sampling.max_tokens"),
    (Sampling(temperature=2.1), "sampling.temperature"),
    (Sampling(temperature=-0.1), "sampling.temperature"),
    (Sampling(temperature=math.nan), "sampling.temperature"),
    (Sampling(top_p=0.0), "sampling.top_p"),
    (Sampling(top_p=math.nan), "sampling.top_p"),
    (Sampling(stop=("a", "b", "c", "d", "e")), "sampling.stop"),
    (Sampling(stop=("a", "")), "sampling.stop[1]"),
    (Sampling(stop=("x" * 257,)), "sampling.stop[0]"),
    (Sampling(n=0), "sampling.n"),
    (Sampling(n=129), "sampling.n"),
    (Sampling(presence_penalty=2.01), "sampling.presence_penalty"),
    (Sampling(frequency_penalty=math.nan), "sampling.frequency_penalty"),
    (Sampling(top_logprobs=1), "sampling.top_logprobs"),
    (Sampling(logprobs=True, top_logprobs=21), "sampling.top_logprobs"),
    (Sampling(logit_bias={"1": 100.5}), "sampling.logit_bias[1]"),
    (Sampling(logit_bias={"1": math.nan}), "sampling.logit_bias[1]"),
    (Sampling(logit_bias={"the": 1.0}), "sampling.logit_bias"),
    (Sampling(logit_bias={"1\n": 1.0}), "sampling.logit_bias"),
    (Sampling(logit_bias={str(token): 1.0 for token in range(1025)}), "sampling.logit_bias"),
]


@pytest.mark.parametrize(("sampling", "field"), WRONG)
def test_a_value_out_of_range_is_named(sampling: Sampling, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sampling.check()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("allowed", "more"),
    [
        (Sampling(max_tokens=1, temperature=0.0, top_p=1.0, stop=("a", "b", "c", "d"), seed=-1), {"max_tokens": 0}),
        (Sampling(temperature=2.0), {"temperature": math.nextafter(2.0, 3.0)}),
        (Sampling(n=128, presence_penalty=-2, frequency_penalty=2), {"n": 129}),
        (Sampling(logprobs=True, top_logprobs=20), {"logprobs": False}),
        (Sampling(logit_bias={"0": -100, "50256": 100}), {"logit_bias": {"0": -100, "50256": 100.5}}),
    ],
)
def test_the_ends_of_the_ranges_are_allowed_and_what_is_beyond_is_not(allowed: Sampling, more: dict[str, Any]) -> None:
    allowed.check()
    with pytest.raises(InvalidInput):
        replace(allowed, **more).check()


def test_what_is_not_said_comes_from_the_default() -> None:
    default = Sampling(max_tokens=100, temperature=0.5, stop=("\n",))
    assert Sampling(temperature=0.0, seed=0).over(default, 0) == Sampling(100, 0.0, None, ("\n",), 0)


@pytest.mark.parametrize(
    ("asked", "context", "granted"), [(9, 5, 5), (3, 5, 3), (None, 5, None), (9, 0, 9), (None, 0, None)]
)
def test_max_tokens_stay_within_the_context(asked: int | None, context: int, granted: int | None) -> None:
    assert Sampling(max_tokens=asked).over(Sampling(), context).max_tokens == granted


def test_max_tokens_are_the_context_where_a_backend_needs_to_be_told() -> None:
    assert Sampling().over(Sampling(), 5, fill=True).max_tokens == 5
    assert Sampling().over(Sampling(max_tokens=3), 5, fill=True).max_tokens == 3


def test_filling_the_gaps_loses_nothing() -> None:
    asked = Sampling(5, 0.1, 0.2, ("a",), 1, 2, 0.3, 0.4, logprobs=True, top_logprobs=3, logit_bias={"1": 1.0})
    assert asked.over(Sampling(7, 1.0, 1.0, ("b",), 2), 0) == asked


F = Tool("f")
WRONG_OPTIONS = [
    (ChatOptions([Tool("")]), "tools[0].function.name"),
    (ChatOptions([F, Tool("a b")]), "tools[1].function.name"),
    (ChatOptions([Tool("f\n")]), "tools[0].function.name"),
    (ChatOptions([F] * 129), "tools"),
    (ChatOptions(tool_choice=ToolChoice(ToolMode.REQUIRED)), "tool_choice"),
    (ChatOptions([F], ToolChoice(ToolMode.FUNCTION, "g")), "tool_choice.function.name"),
    (ChatOptions(parallel_tool_calls=False), "parallel_tool_calls"),
    (ChatOptions(response_format=JsonSchema("", "{}")), "response_format.json_schema.name"),
    (ChatOptions(response_format=JsonSchema("s", "")), "response_format.json_schema.schema"),
]


@pytest.mark.parametrize(("options", "field"), WRONG_OPTIONS)
def test_an_option_that_cannot_be_is_named(options: ChatOptions, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        options.check()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("allowed", "more"),
    [
        (ChatOptions([F, Tool("g")], ToolChoice(ToolMode.FUNCTION, "g"), parallel_tool_calls=True), {"tools": [F]}),
        (
            ChatOptions(tool_choice=ToolChoice(ToolMode.NONE), response_format=JsonSchema("s", "{}")),
            {"tool_choice": ToolChoice(ToolMode.REQUIRED)},
        ),
    ],
)
def test_options_that_fit_together_are_left_alone(allowed: ChatOptions, more: dict[str, Any]) -> None:
    allowed.check()
    with pytest.raises(InvalidInput):
        replace(allowed, **more).check()
