"""Stop texts end an answer wherever the pieces are cut."""

import pytest
from inference.core.stops import StopFilter

CASES = [
    ("one two three", ["two"], "one ", True),
    ("one two three", ["four"], "one two three", False),
    ("aab", ["ab"], "a", True),
    ("ends with st", ["stop"], "ends with st", False),
    ("x END y STOP z", ["STOP", "END"], "x ", True),
    ("stop", ["stop"], "", True),
    ("anything", [], "anything", False),
]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(("text", "stops", "expected", "met"), CASES)
def test_cuts_before_the_first_stop_text(text: str, stops: list[str], expected: str, met: bool, size: int) -> None:
    stop, told = StopFilter(stops), ""
    for start in range(0, len(text), size):
        told += stop.pass_on(text[start : start + size])
        if stop.met:
            break
    told += stop.rest()
    assert (told, stop.met) == (expected, met)


def test_text_that_no_stop_can_begin_with_is_not_delayed() -> None:
    stop = StopFilter(["\n\n"])
    assert stop.pass_on("a sentence.") == "a sentence."
    assert stop.pass_on("\n") == ""
    assert stop.pass_on("next") == "\nnext"
