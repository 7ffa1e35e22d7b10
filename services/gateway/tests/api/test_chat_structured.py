"""Answers of a demanded form: checked, asked for once more, and declared when they still do not fit."""

import json
from typing import Any

import httpx
import pytest
from gateway_chat_fakes import LENGTH, TOOL_CALLS, Written
from gateway_fakes import Gateway

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "form", "schema": SCHEMA}}
STRICT = {"type": "function", "function": {"name": "find", "strict": True, "parameters": SCHEMA}}
LOOSE = {"type": "function", "function": {"name": "find", "parameters": SCHEMA}}
GOOD, BAD = '{"a": 1}', '{"a": "one"}'


def body(**changes: Any) -> dict[str, Any]:
    asked = {"model": "writer", "messages": [{"role": "user", "content": "Hi"}], "response_format": FORMAT}
    return {**asked, **changes}


def calling(arguments: str) -> Written:
    return Written(calls=[("c1", "find", arguments)], finish_reason=TOOL_CALLS)


async def test_an_answer_that_fits_is_asked_for_once(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(GOOD)]
    answer = (await http.post(CHAT, json=body())).json()
    assert answer["choices"][0]["message"]["content"] == GOOD
    (sent,) = gateway.world.requests
    assert json.loads(sent.options.response_format.schema_json) == SCHEMA


@pytest.mark.parametrize("bad", [BAD, "no JSON", "", '{"a": 1', '{"a": 1, "a": 2}', "[" * 5000])
async def test_an_answer_that_does_not_fit_is_asked_for_once_more(
    http: httpx.AsyncClient, gateway: Gateway, bad: str
) -> None:
    gateway.world.answers = [Written(bad), Written(GOOD)]
    answer = (await http.post(CHAT, json=body())).json()
    assert answer["choices"][0]["message"]["content"] == GOOD
    assert answer["usage"]["total_tokens"] == 16
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert [each["outcome"] for each in answer["penstock"]["routing"]["attempts"]] == ["ok", "ok"]
    first, again = gateway.world.requests
    assert [turn.role for turn in again.messages] == ["user", "assistant", "user"]
    assert again.messages[1].content == bad
    assert "nothing but JSON" in again.messages[2].content
    assert (again.options, again.messages[0]) == (first.options, first.messages[0])


async def test_an_answer_that_never_fits_is_declared(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(BAD)]
    response = await http.post(CHAT, json=body())
    assert response.status_code == 503
    error = response.json()["error"]
    assert error["code"] == "invalid_structured_output"
    assert "$.a" in error["message"]
    assert len(gateway.world.requests) == 2


@pytest.mark.parametrize("written", [Written('{"a": ', finish_reason=LENGTH), Written(refusal="No.")])
async def test_what_was_cut_or_refused_is_handed_on(
    http: httpx.AsyncClient, gateway: Gateway, written: Written
) -> None:
    gateway.world.answers = [written]
    (choice,) = (await http.post(CHAT, json=body())).json()["choices"]
    assert choice["finish_reason"] == ("length" if written.text else "stop")
    assert (await http.post(CHAT, json=body(stream=True))).text.endswith("data: [DONE]\n\n")
    assert len(gateway.world.requests) == 2


async def test_of_several_answers_those_that_do_not_fit_are_replaced(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(texts=[GOOD, BAD, '{"a": 3}', "x"]), Written(texts=['{"a": 7}', '{"a": 8}'])]
    answer = (await http.post(CHAT, json=body(n=4))).json()
    assert [json.loads(each["message"]["content"])["a"] for each in answer["choices"]] == [1, 7, 3, 8]
    assert [each["index"] for each in answer["choices"]] == [0, 1, 2, 3]
    assert [request.sampling.n for request in gateway.world.requests] == [4, 2]
    gateway.world.answers = [Written(texts=[BAD, BAD]), Written(texts=[GOOD, BAD])]
    assert (await http.post(CHAT, json=body(n=2))).status_code == 503


async def test_a_stream_is_judged_at_its_end(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(GOOD)]
    good = (await http.post(CHAT, json=body(stream=True))).text
    assert good.endswith("data: [DONE]\n\n")
    gateway.world.answers = [Written(BAD)]
    *chunks, error = (await http.post(CHAT, json=body(stream=True))).text.strip().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "invalid_structured_output"
    shown = [json.loads(chunk.removeprefix("data: "))["choices"][0] for chunk in chunks]
    assert "".join(each["delta"].get("content", "") for each in shown) == BAD
    assert all(each["finish_reason"] is None for each in shown)
    assert len(gateway.world.requests) == 2


async def test_json_mode(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written("[1]"), Written('{"any": "thing"}')]
    answer = (await http.post(CHAT, json=body(response_format={"type": "json_object"}))).json()
    assert answer["choices"][0]["message"]["content"] == '{"any": "thing"}'


@pytest.mark.parametrize("arguments", ["{", BAD, ""])
@pytest.mark.parametrize("stream", [False, True])
async def test_arguments_of_strict_tools(
    http: httpx.AsyncClient, gateway: Gateway, arguments: str, stream: bool
) -> None:
    gateway.world.answers = [calling(arguments)]
    asked = body(response_format={"type": "text"}, tools=[STRICT], stream=stream)
    response = await http.post(CHAT, json=asked)
    assert response.status_code == (200 if stream else 503)
    assert "invalid_structured_output" in response.text
    assert "[DONE]" not in response.text
    gateway.world.answers = [calling(arguments), calling(GOOD)] if not stream else [calling(GOOD)]
    response = await http.post(CHAT, json=asked)
    assert response.status_code == 200
    assert ("[DONE]" in response.text) == stream


@pytest.mark.parametrize("stream", [False, True])
async def test_arguments_of_other_tools_are_handed_on(http: httpx.AsyncClient, gateway: Gateway, stream: bool) -> None:
    gateway.world.answers = [calling("{no json")]
    response = await http.post(CHAT, json=body(response_format={"type": "text"}, tools=[LOOSE], stream=stream))
    assert response.status_code == 200
    assert "tool_calls" in response.text
    assert "invalid_structured_output" not in response.text


async def test_a_schema_bomb_is_refused_before_anything_is_asked(http: httpx.AsyncClient, gateway: Gateway) -> None:
    defs = {f"l{i}": {"allOf": [{"$ref": f"#/$defs/l{i + 1}"}] * 2} for i in range(40)} | {"l40": {}}
    bomb = {"$ref": "#/$defs/l0", "$defs": defs}
    asked = body(response_format={"type": "json_schema", "json_schema": {"name": "bomb", "schema": bomb}})
    response = await http.post(CHAT, json=asked)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("response_format.json_schema.schema")
    assert not gateway.world.requests
