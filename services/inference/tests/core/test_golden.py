"""Golden answers: what counts as right, as wrong, and as no answer."""

import numpy as np
import pytest
from inference.core.conversation import Turn
from inference.core.golden import Outcome, Verdict, judge
from inference.core.golden_cases import Array, Expected, Golden, TextCase
from inference.core.ports import BackendLost
from inference_fakes import FakeGenerator
from inference_replica_fakes import GOLDEN, FakeArrays, FakeClock
from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable

ROW = np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)
WRONG = [
    (Expected(ROW, atol=0.01), ROW + 0.02, "an element is off by 0.02"),
    (Expected(ROW), ROW[:1], "its shape is [1, 2] and not [2, 2]"),
    (Expected(ROW, atol=9), np.full_like(ROW, np.nan), "it holds what is no number"),
    (Expected(ROW, atol=9), np.full_like(ROW, np.inf), "it holds what is no number"),
    (Expected(ROW, atol=9, min_cosine=0.99), ROW[::-1], "its cosine to what is expected is 0.6000"),
    (Expected(ROW, atol=9, min_cosine=0.5), np.zeros_like(ROW), "its cosine to what is expected is 0.0000"),
    (Expected(ROW, rtol=0.1), ROW * 1.2, "an element is off"),
    (Expected(np.array([b"a"], np.object_)), np.array([b"b"], np.object_), "its bytes are others"),
    (Expected(np.array([2**63], np.uint64)), np.array([0], np.uint64), "an element is off"),
]
RIGHT = [
    (Expected(ROW, atol=0.03), ROW + 0.02),
    (Expected(ROW, rtol=0.3), ROW * 1.2),
    (Expected(ROW, atol=1, min_cosine=0.99), ROW * 1.01),
    (Expected(np.zeros((0, 3))), np.zeros((0, 3))),
    (Expected(np.array([b"a"], np.object_)), np.array([b"a"], np.object_)),
]


@pytest.mark.parametrize(("expected", "answered", "difference"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_output_is_told(expected: Expected, answered: Array, difference: str) -> None:
    assert expected.difference(answered).startswith(difference)


@pytest.mark.parametrize(("expected", "answered"), RIGHT, ids=lambda value: str(value)[:30])
def test_an_output_within_its_tolerance_is_right(expected: Expected, answered: Array) -> None:
    assert expected.difference(answered) == ""


async def verdict(arrays: FakeArrays) -> Verdict:
    return await judge(GOLDEN, arrays, None, 1.0, FakeClock())


async def test_right_answers_pass_and_the_verdict_has_its_time() -> None:
    assert await verdict(FakeArrays()) == Verdict(Outcome.PASSED, 1000.0)


async def test_a_wrong_answer_names_case_and_output() -> None:
    arrays = FakeArrays()
    arrays.factor = 2.1
    assert await verdict(arrays) == Verdict(Outcome.WRONG, 1000.0, "double: y: an element is off by 0.2")


ERRORS: list[tuple[PenstockError, Outcome, bool]] = [
    (InvalidInput("bad shape"), Outcome.WRONG, False),
    (TimedOut("x"), Outcome.UNANSWERED, False),
    (Unavailable("x", reason="queue_full"), Outcome.UNANSWERED, False),
    (BackendLost("x"), Outcome.UNANSWERED, True),
]


@pytest.mark.parametrize(("error", "outcome", "lost"), ERRORS, ids=str)
async def test_no_answer_is_not_a_wrong_one_but_a_refusal_is(
    error: PenstockError, outcome: Outcome, lost: bool
) -> None:
    arrays = FakeArrays()
    arrays.error = error
    told = await verdict(arrays)
    assert (told.outcome, told.lost) == (outcome, lost)


TURNS = [Turn("user", "Hi")]
TEXTS = [
    (TextCase("t", TURNS, 9, whole="Hello there."), ""),
    (TextCase("t", TURNS, 9, contains=["there", "Hello"]), ""),
    (TextCase("t", TURNS, 9, whole="Hello"), "t: the answer is another one"),
    (TextCase("t", TURNS, 9, contains=["there", "1936"]), "t: the answer lacks '1936'"),
]


@pytest.mark.parametrize(("case", "detail"), TEXTS, ids=lambda value: str(value)[-30:])
async def test_a_text_is_compared_as_a_whole_or_by_what_it_contains(case: TextCase, detail: str) -> None:
    generator = FakeGenerator()
    told = await judge(Golden([case]), None, generator, 1.0, FakeClock())
    assert told.detail == detail
    assert told.outcome is (Outcome.WRONG if detail else Outcome.PASSED)
    assert generator.orders[0].sampling.max_tokens == 9
    assert generator.orders[0].sampling.temperature == 0.0
