"""The tokens of a conversation: a likely number, for what fits into a model, and a bound, for what is reserved."""

import json
from pathlib import Path
from typing import Any

import pytest
from gateway.api.chat_needs import MOST_IMAGE_TOKENS, TEMPLATE_TOKENS, TOOLS_TOKENS, needs_of
from gateway.core import accounts
from gateway.core.accounts import Limits
from gateway.core.routes import Needs, Route
from gateway_billing_fakes import Office, ScriptedModels, account, whole
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference

QUESTION = "How is the mood of the upstream today, on the whole?"
TOOL = {"name": "find", "description": "Finds a turbine", "parameters_json": json.dumps({"type": "object"})}
PICTURE = {"image": {"url": "data:image/png;base64," + "A" * 5_000_000}}
SMALL_PICTURE = {"image": {"url": "https://example.com/a.png", "detail": "low"}}


def needs(*messages: dict[str, Any], options: Any = None) -> Needs:
    return needs_of(pb.Conversation(model="writer", messages=messages, options=options))


def most(*messages: dict[str, Any], options: Any = None) -> int:
    return needs(*messages, options=options).most_input_tokens


def test_a_short_question_is_bounded_with_its_template() -> None:
    found = needs({"role": "user", "content": QUESTION})
    assert found.input_tokens < 20
    assert TEMPLATE_TOKENS + 12 < found.most_input_tokens < TEMPLATE_TOKENS + 50


def test_many_short_turns_are_bounded_with_what_frames_them() -> None:
    assert most(*[{"role": "user", "content": "a"}] * 1000) >= 1000 * (1 + 5)


def test_what_is_dense_is_not_taken_for_english() -> None:
    english, digits, chinese = "the water turns " * 50, "0123456789" * 80, "水库的水经压力管道落下" * 30
    assert most({"role": "user", "content": english}) < 0.6 * len(english)
    assert most({"role": "user", "content": digits}) >= len(digits)
    assert most({"role": "user", "content": chinese}) >= len(chinese)


def test_tools_are_counted_with_what_explains_them() -> None:
    plain = most({"role": "user", "content": QUESTION})
    one = most({"role": "user", "content": QUESTION}, options={"tools": [TOOL]})
    many = most({"role": "user", "content": QUESTION}, options={"tools": [TOOL] * 100})
    assert one - plain > TOOLS_TOKENS
    assert many - one > 99 * 20
    schema = {"response_format": {"type": 2, "schema_json": json.dumps({"enum": list(range(1000))})}}
    assert most({"role": "user", "content": QUESTION}, options=schema) - plain > 3000


def test_pictures_are_counted_by_number_not_by_their_bytes() -> None:
    text = {"text": QUESTION}
    none = most({"role": "user", "parts": [text]})
    one, two = most({"role": "user", "parts": [text, PICTURE]}), most({"role": "user", "parts": [text, PICTURE] * 2})
    assert MOST_IMAGE_TOKENS <= one - none < MOST_IMAGE_TOKENS + 50
    assert 2 * MOST_IMAGE_TOKENS <= two - none < 2 * MOST_IMAGE_TOKENS + 150
    assert most({"role": "user", "parts": [text, SMALL_PICTURE]}) - none >= MOST_IMAGE_TOKENS
    likely = needs({"role": "user", "parts": [text, SMALL_PICTURE]}).input_tokens
    assert likely < 150


def test_sound_is_counted_by_its_length() -> None:
    minute = {"audio": {"content": "A" * (60 * 32_000 // 8 * 4 // 3), "format": "mp3"}}
    assert most({"role": "user", "parts": [minute]}) >= 600


def test_calls_of_tools_beside_parts_are_counted() -> None:
    call = {"id": "c", "name": "find", "arguments": json.dumps({"numbers": list(range(2000))})}
    found = needs({"role": "assistant", "parts": [{"text": "x"}], "tool_calls": [call]})
    assert found.input_tokens > 2000
    assert found.most_input_tokens > 8000


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The water of the reservoir falls through the penstock and turns the turbine, which drives it.", 18),
        ("Вода водохранилища падает по напорному трубопроводу и вращает турбину.", 23),
        ("წყალსაცავის წყალი მილსადენში ვარდება და აბრუნებს ტურბინას, რომელიც გენერატორს ამოძრავებს.", 34),
        ("水库的水经压力管道落下,推动水轮机,水轮机再带动旁边的发电机。", 29),
    ],
    ids=["English", "Russian", "Georgian", "Chinese"],
)
def test_what_fits_by_a_good_tokenizer_is_not_refused(text: str, tokens: int) -> None:
    """The router refuses what is twice too long by the likely number; `tokens` are those of o200k."""
    assert needs({"role": "user", "content": text * 40}).input_tokens // 2 <= tokens * 40


@pytest.mark.parametrize(("bound", "read"), [(0, 5), (50, 50), (10**9, 8_000)])
async def test_the_bound_is_reserved_but_no_more_than_a_model_can_read(tmp_path: Path, bound: int, read: int) -> None:
    office = Office(tmp_path, ScriptedModels(first=[whole(input_tokens=5, output_tokens=3)]), Route("fast", ("first",)))
    assert await office.catalogue.refresh()
    needed = Needs(input_tokens=5, max_tokens=7, most_input_tokens=bound)
    with accounts.acting_as(account(Limits(budget_day_nanos=1 << 50))), office.chats.open("fast", needed) as call:
        await call.complete(inference.CompleteRequest())
    assert (await office.row()).attempt.reserved_nanos == read * 1_000 + 7 * 2_000


def test_everything_beside_the_parts_is_counted_and_no_picture_by_its_size() -> None:
    assert {field.name for field in inference.Message.DESCRIPTOR.fields} == {
        "role", "content", "parts", "name", "tool_calls", "tool_call_id", "refusal"
    }  # fmt: skip
    image = inference.ContentPart(image=inference.Image(url="data:," + "A" * 100_000))
    parts = [image, inference.ContentPart(text="!" * 300)]
    alone = needs_of(pb.Conversation(messages=[inference.Message(role="user", parts=parts)]))
    call = inference.ToolCall(id="!" * 100, name="!" * 100, arguments="!" * 100)
    more = {"name": "!" * 100, "refusal": "!" * 100, "tool_call_id": "!" * 100, "content": "!" * 100}
    beside = inference.Message(role="user", parts=parts, tool_calls=[call], **more)
    assert MOST_IMAGE_TOKENS + 300 < alone.most_input_tokens < MOST_IMAGE_TOKENS + 500
    assert needs_of(pb.Conversation(messages=[beside])).most_input_tokens >= alone.most_input_tokens + 700
