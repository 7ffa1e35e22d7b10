"""A conversation is checked message by message, and what is wrong is named as in OpenAI's schema."""

from dataclasses import replace

import pytest
from inference.core.conversation import Audio, Image, Text, ToolCall, Turn, check_turns
from servicekit.errors import InvalidInput

CALL = ToolCall(0, "c1", "f", "{}")
WRONG = [
    ([Turn("user", "a"), Turn("robot", "b")], "messages[1].role"),
    ([Turn("user", "a", [Text("b")])], "messages[0].content"),
    ([Turn("user", parts=[Text("b"), Image("file:///etc/passwd")])], "messages[0].content[1].image_url.url"),
    ([Turn("user", parts=[Image("http://169.254.169.254/")])], "messages[0].content[0].image_url.url"),
    ([Turn("user", parts=[Image("https://x/y", "huge")])], "messages[0].content[0].image_url.detail"),
    ([Turn("system", parts=[Image("https://x/y")])], "messages[0].content[0]"),
    ([Turn("user", tool_calls=[CALL])], "messages[0].tool_calls"),
    ([Turn("user", refusal="no")], "messages[0].refusal"),
    ([Turn("tool", "42")], "messages[0].tool_call_id"),
    ([Turn("user", "42", tool_call_id="c1")], "messages[0].tool_call_id"),
    ([Turn("assistant", tool_calls=[ToolCall(0, "", "f")])], "messages[0].tool_calls[0]"),
    ([Turn("assistant", tool_calls=[CALL, ToolCall(1, "c2", "")])], "messages[0].tool_calls[1]"),
    ([Turn("assistant", tool_calls=[CALL] * 129)], "messages[0].tool_calls"),
]


@pytest.mark.parametrize(("turns", "field"), WRONG)
def test_what_is_wrong_is_named(turns: list[Turn], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_turns(turns)
    assert caught.value.field == field


def test_a_conversation_needs_a_message() -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        check_turns([])


def test_every_role_and_part_has_its_place_and_no_other_one() -> None:
    picture, sound = Image("DATA:image/png;base64,AA", "low"), Audio("AA", "wav")
    turns = [
        Turn("system", "a"),
        Turn("developer", parts=[Text("b")]),
        Turn("user", parts=[Text("c"), picture, sound, Image("https://x/y")], name="Ada"),
        Turn("assistant", tool_calls=[CALL]),
        Turn("tool", "42", tool_call_id="c1"),
        Turn("assistant", refusal="No."),
        Turn("user"),
    ]
    check_turns(turns)
    for index, role in ((2, "system"), (3, "user"), (4, "user"), (5, "user"), (6, "tool")):
        with pytest.raises(InvalidInput) as caught:
            check_turns([*turns[:index], replace(turns[index], role=role), *turns[index + 1 :]])
        assert caught.value.field.startswith(f"messages[{index}]")


def test_what_is_said_in_words() -> None:
    assert Turn("user", "a").text() == "a"
    assert Turn("user", parts=[Text("a"), Image("https://x/y"), Text("b")]).text() == "a\nb"
    assert Turn("assistant", refusal="No.").text() == "No."
