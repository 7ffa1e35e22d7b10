"""Asks a model its golden questions and judges the answers."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from servicekit.errors import InvalidInput, PenstockError

from inference.core.generation import Order, Sampling
from inference.core.golden_cases import Golden, TensorCase, TextCase
from inference.core.ports import ArrayRunner, BackendLost, Generator


class Outcome(Enum):
    """What a probe showed: the answers are right, are wrong, or did not come."""

    PASSED = "passed"
    WRONG = "wrong"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a probe, when it was (seconds since 1970), what was wrong, and whether the server was lost."""

    outcome: Outcome
    checked_at: float
    detail: str = ""
    lost: bool = False


async def judge(
    golden: Golden, arrays: ArrayRunner | None, generator: Generator | None, timeout_s: float, now: Callable[[], float]
) -> Verdict:
    """Ask every case, one after another, within `timeout_s` each, and return the verdict.

    An answer that does not come says nothing about its being right: an overloaded server is not a wrong one. A refusal
    of the golden input itself is wrong, since it was taken before.
    """
    for case in golden.cases:
        try:
            different = await _difference(case, arrays, generator, timeout_s)
        except InvalidInput as error:
            return Verdict(Outcome.WRONG, now(), f"{case.name}: refused: {error.message[:200]}")
        except PenstockError as error:
            lost = isinstance(error, BackendLost)
            return Verdict(Outcome.UNANSWERED, now(), f"{case.name}: {error.reason}", lost)
        if different:
            return Verdict(Outcome.WRONG, now(), different)
    return Verdict(Outcome.PASSED, now())


async def _difference(
    case: TensorCase | TextCase, arrays: ArrayRunner | None, generator: Generator | None, timeout_s: float
) -> str:
    if isinstance(case, TensorCase):
        assert arrays is not None, "who reads golden cases refuses those that cannot be asked"
        return case.difference(await arrays.run(case.inputs, timeout_s))
    assert generator is not None, "who reads golden cases refuses those that cannot be asked"
    answer = await generator.complete(
        Order(case.turns, Sampling(max_tokens=case.max_tokens, temperature=0.0)), timeout_s
    )
    return case.difference(answer.choices[0].turn.content)
